"""A run that goes on as if it had not been interrupted: random states, workers, the begun epoch."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, get_worker_info

from ..schedules import tell_ended, tell_restored
from .terminal_hook import BRIEF


def random_states() -> dict:
    """The states of python's, numpy's and torch's generators, as what a checkpoint may hold."""
    _, key, position, has_gauss, gauss = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=[torch.from_numpy(np.asarray(key, np.int64)), position, has_gauss, gauss],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    )


def set_random_states(states: dict) -> None:
    """Put the generators into the states that `random_states` returned, wherever they lie now."""
    random.setstate(states['python'])
    key, *rest = states['numpy']
    np.random.set_state(('MT19937', key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Lets a resumed run equal an uninterrupted one; each run of a `CheckedRunner` has it.

    MMEngine restores weights, optimizer, schedules and moving averages. This adds to a checkpoint
    the random states of each process, and how much of an epoch is done. From an epoch's end the
    run goes on to the bit, on the CPU and with as many workers; from the middle of an epoch with
    the batches that it has not seen yet (MMEngine begins the epoch anew), to the bit with
    `num_workers=0`. Iteration-based runs are as in the middle of an epoch; with mmengine 0.10.7
    only with an `InfiniteSampler`, as mmdet's configs have it.

    For that, workers start anew with each epoch, seeded by the run's seed, the process and the
    iteration: persistent ones run on with states that are nowhere else, and MMEngine gives the
    others the same seed in each epoch. Validation leaves the random states as they were.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.resumed: dict | None = None
        # Of each process, where all take part in saving.
        self.gathered_states: list[dict] | None = None
        self.before_validation: dict | None = None
        self.whole_loader: DataLoader | None = None  # while an epoch's rest is read
        self.batch = self.skipped = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note where the interrupted run was, and say what it restores against the config."""
        if not runner._resume:
            return
        tell_restored(runner, checkpoint)
        self.resumed = checkpoint.get('exact_resume')
        if self.resumed is None:
            runner.logger.warning(
                'the checkpoint holds no random states (it is of MMEngine alone): the run goes on, '
                'with other random numbers than uninterrupted'
            )

    def before_train(self, runner: Runner) -> None:
        """Have each worker seeded by its loader's generator, and the sampler by the run's seed; say
        where the schedules end before the training.
        """
        tell_ended(runner)
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            loop.dataloader.worker_init_fn = WorkerInit(loop.dataloader.worker_init_fn)
        sampler = _sampler(runner.train_dataloader)
        if runner._resume and hasattr(sampler, 'seed'):
            sampler.seed = runner.seed  # a run without a seed of its own: the interrupted one's

    def before_train_epoch(self, runner: Runner) -> None:
        """Start workers anew; after a resumption restore the states and skip what is done."""
        loader = runner.train_dataloader
        seed = np.random.SeedSequence((runner.seed, get_rank(), runner.iter))
        loader.generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        loader._iterator = None  # as mmdet's PipelineSwitchHook restarts persistent workers
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        sampler = _sampler(loader)
        # MMEngine 0.10.7 has begun to read already, and would read what is done to pass over it.
        if isinstance(sampler, InfiniteSampler) and not hasattr(iterator, 'skip_iter'):
            sampler.indices = sampler._indices_of_rank()
            remaining = _remaining(loader, runner.iter)
            make_iterator = iter if iterator is None else type(iterator)
            runner.train_loop.dataloader_iterator = _SkippingIterator(
                make_iterator, remaining, runner.iter
            )
        if self.resumed:
            self._restore(runner, loader, self.resumed)
        self.resumed = None

    def _restore(self, runner: Runner, loader: DataLoader, resumed: dict) -> None:
        states = resumed['random_states']
        if len(states) == get_world_size():
            set_random_states(states[get_rank()])
        else:
            runner.logger.warning(
                f'the checkpoint holds the random states of {len(states)} processes, and there '
                f'are {get_world_size()}: the run goes on with other random numbers'
            )
        done, batches = resumed['batch'], resumed['batches']
        if not done or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        if batches != len(loader) or loader.batch_sampler is None:
            runner.logger.warning(
                f'epoch {runner.epoch + 1} begins anew: {done} of {batches} batches were done, '
                f'and it has {len(loader)} now'
            )
            return
        runner.logger.info(
            f'epoch {runner.epoch + 1} goes on after {done} of {batches} batches', extra=BRIEF
        )
        self.whole_loader, self.skipped = loader, done
        runner.train_loop.dataloader = _remaining(loader, done)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Count the batches of the epoch."""
        self.batch = self.skipped + batch_idx + 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Give the loop its whole loader again."""
        self.batch = self.skipped = 0
        if self.whole_loader is not None:
            runner.train_loop.dataloader, self.whole_loader = self.whole_loader, None

    def before_val(self, runner: Runner) -> None:
        """Note the random states of the training."""
        self.before_validation = random_states()

    def after_val(self, runner: Runner) -> None:
        """Restore them."""
        if self.before_validation is not None:
            set_random_states(self.before_validation)
        self.before_validation = None

    def before_processes_save(self, runner: Runner) -> None:
        """Gather the random states of all processes, of which one writes the checkpoint."""
        self.gathered_states = all_gather_object(self.before_validation or random_states())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the states and the place in the epoch into the checkpoint, as `exact_resume`."""
        checkpoint['exact_resume'] = dict(
            random_states=self.gathered_states or [self.before_validation or random_states()],
            batch=self.batch,
            batches=len(self.whole_loader or runner.train_dataloader),
        )
        self.gathered_states = None


class WorkerInit:
    """What a worker does first: as its loader says, then a seed by the loader's generator.

    It ends by its parent's SIGTERM alone: a scheduler sends one to all processes, and the training
    has to finish its iteration.
    """

    def __init__(self, inner: Callable[[int], None] | None) -> None:
        self.inner = inner

    def __call__(self, worker_id: int) -> None:
        if self.inner is not None:
            self.inner(worker_id)
        info = get_worker_info()
        assert info is not None
        seed = info.seed
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        if hasattr(signal, 'sigwaitinfo'):  # not on macOS
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _sampler(loader: DataLoader) -> object:
    batches = getattr(loader.batch_sampler, 'sampler', None)
    return loader.sampler if hasattr(loader.sampler, 'seed') else batches


def _remaining(loader: DataLoader, done: int) -> DataLoader:
    """The loader without its first `done` batches, which are not read."""
    remaining = copy.copy(loader)
    # torch refuses to set it on a loader that is made.
    remaining.__dict__['batch_sampler'] = _RemainingBatches(loader.batch_sampler, done)
    return remaining


class _SkippingIterator:
    """An iterator over a loader that lacks its first `done` batches, with None in their place."""

    def __init__(
        self, make_iterator: Callable[[DataLoader], Iterator], remaining: DataLoader, done: int
    ) -> None:
        self.make_iterator, self.remaining, self.done = make_iterator, remaining, done
        self.inner: Iterator | None = None

    def __next__(self) -> object:
        if self.done:
            self.done -= 1
            return None
        if self.inner is None:
            self.inner = self.make_iterator(self.remaining)
        return next(self.inner)


class _RemainingBatches:
    def __init__(self, batches: Any, done: int) -> None:
        self.batches, self.done = batches, done
        self.sampler = batches.sampler  # of which MMEngine sets the epoch

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.done, None)

    def __len__(self) -> int:
        return len(self.batches) - self.done
