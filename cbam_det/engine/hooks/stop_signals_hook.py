"""Write a checkpoint and end the run when a scheduler or Ctrl-C stops it."""

from __future__ import annotations

import os
import signal
import threading
from functools import cache
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...utils.exits import SIGNALS, Stopped, explain_ctrl_c
from ...utils.mmengine_private import accumulated_iterations
from .checkpoint_hook import AtomicCheckpointHook
from .terminal_hook import BRIEF


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; every process must call this."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    all_reduce(flags, 'max')
    return bool(flags.item())


@HOOKS.register_module()
class StopSignalsHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C, writes `stopped.pth` after the current iteration and ends the
    run. `CheckedRunner` adds it to every training.

    With accumulated gradients it waits for the iteration that updates the weights, and it lets a
    validation finish. A second Ctrl-C ends the run at once. Other further signals are ignored,
    since processes get a signal twice if the scheduler and torchrun both send it. A run that
    ignores SIGINT (in the background of a script) still ignores it. Ctrl-C in a terminal ends
    workers that are spawned, not forked.

    Raises:
        Stopped: the checkpoint was written.
        KeyboardInterrupt: at the second Ctrl-C.
    """

    priority = 'LOWEST'  # the checkpoint includes what all other hooks do in an iteration

    def __init__(self) -> None:
        self.received: int | None = None
        self.interrupted = False
        self.previous_handlers: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers, which Python allows in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning(
                'the training is not in the main thread, so a signal (SIGTERM, SIGUSR1, Ctrl-C) '
                'ends it without a checkpoint'
            )
            return
        ignores_ctrl_c = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        self.previous_handlers = {
            number: signal.signal(number, self._receive)
            for number in SIGNALS
            if not (number == signal.SIGINT and ignores_ctrl_c)
        }
        LISTENING.append(self)
        _watch_forks()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if number != signal.SIGINT:
            return
        if self.interrupted:
            self.restore()
            raise KeyboardInterrupt
        self.interrupted = True
        if is_main_process():
            explain_ctrl_c()

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)
        self.previous_handlers = {}
        if self in LISTENING:
            LISTENING.remove(self)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop if a signal was received."""
        wrapper = runner.optim_wrapper
        updated = accumulated_iterations(wrapper) == 1 or wrapper.should_update()
        if any_process(self.received is not None) and updated:
            self._stop(runner, runner.epoch, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Stop after a validation if a signal was received."""
        if any_process(self.received is not None):
            self._stop(runner, runner.epoch, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Restore the previous signal handlers."""
        self.restore()

    def _stop(self, runner: Runner, epoch: int, iteration: int) -> None:
        name = 'a signal to another process'
        if self.received:
            name = signal.Signals(self.received).name
        writers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        reason = f'stopped by {name} after iteration {iteration} of {runner.max_iters}'
        if not writers:
            saved = 'no checkpoint is saved, since the config has no CheckpointHook'
        else:
            path = writers[0].save_now(runner, epoch, iteration)
            saved = f'saved {path}; to continue, run the same command with --resume'
        self.restore()
        runner.logger.info(f'{reason}: {saved}', extra=BRIEF)
        raise Stopped(f'{reason}: {saved}', self.received or signal.SIGTERM)


LISTENING: list[StopSignalsHook] = []


# Forked processes end by SIGTERM from their first moment on; signals are blocked during the fork so
# that none is lost. (VOCMetric ends its pool by SIGTERM.) They ignore SIGUSR1 and Ctrl-C, which a
# terminal sends to all processes: the run handles these and needs its workers until it ends.
def _before_fork() -> None:
    if LISTENING:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork_in_parent() -> None:
    if LISTENING:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _after_fork_in_child() -> None:
    if LISTENING:
        LISTENING.clear()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@cache
def _watch_forks() -> None:
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )
