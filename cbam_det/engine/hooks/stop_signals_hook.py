"""A signal to stop, from a scheduler or by Ctrl-C, ends the run with a checkpoint."""

from __future__ import annotations

import os
import signal
from functools import cache
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...utils.errors import SIGNALS, Stopped, explain_ctrl_c
from .checkpoint_hook import AtomicCheckpointHook
from .terminal_hook import BRIEF


def any_process(flag: bool) -> bool:
    """Whether `flag` holds in any of the processes, all of which have to call this."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    all_reduce(flags, 'max')
    return bool(flags.item())


@HOOKS.register_module()
class StopSignalsHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C, writes `stopped.pth` after the current iteration and ends the
    run.

    Each run of a `CheckedRunner` has it. With accumulated gradients the iteration is the one that
    updates the weights; a validation is finished before. Further signals change nothing: torchrun
    passes on to its processes what a scheduler sends to all of them. But a second Ctrl-C is from
    somebody who does not want to wait. A run that ignores SIGINT (in a script's background) goes
    on doing so. Workers that are spawned, not forked, end by a terminal's Ctrl-C.

    Raises:
        Stopped: the checkpoint is written.
        KeyboardInterrupt: at the second Ctrl-C.
    """

    priority = 'LOWEST'  # what all other hooks do in an iteration belongs to its checkpoint

    def __init__(self) -> None:
        self.received: int | None = None
        self.interrupted = False
        self.previous_handlers: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen to the signals."""
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
        """Leave the signals as they were."""
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
        """Stop here, where a signal came."""
        wrapper = runner.optim_wrapper
        updated = getattr(wrapper, '_accumulative_counts', 1) == 1 or wrapper.should_update()
        if any_process(self.received is not None) and updated:
            self._stop(runner, runner.epoch, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Stop after a validation of the training, where a signal came."""
        if any_process(self.received is not None):
            self._stop(runner, runner.epoch, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Leave the signals as they were."""
        self.restore()

    def _stop(self, runner: Runner, epoch: int, iteration: int) -> None:
        name = signal.Signals(self.received).name if self.received else 'a signal elsewhere'
        writers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        reason = f'stopped by {name} after iteration {iteration} of {runner.max_iters}'
        if not writers:
            saved = 'nothing is saved, since the config has no CheckpointHook'
        else:
            path = writers[0].save_now(runner, epoch, iteration)
            saved = f'saved in {path}; the same command with --resume goes on from there'
        self.restore()
        runner.logger.info(f'{reason}: {saved}', extra=BRIEF)
        raise Stopped(f'{reason}: {saved}', self.received or signal.SIGTERM)


LISTENING: list[StopSignalsHook] = []


# A process that a run forks ends by SIGTERM, from its first moment on: one that comes before Python
# has taken over in it would be lost. (VOCMetric ends its pool by SIGTERM.) Ctrl-C, which a terminal
# sends to all of them, and SIGUSR1 are for the run, which needs its workers until then.
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
