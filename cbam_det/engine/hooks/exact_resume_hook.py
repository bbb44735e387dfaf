"""Let a resumed run equal an uninterrupted one: random states, workers, the rest of an epoch."""

from __future__ import annotations

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

from ...models.layers.torch_private import restart_workers, with_batch_sampler
from ...utils.mmengine_private import is_resumed, restart_indices
from ..schedules import warn_ended, warn_restored
from .terminal_hook import BRIEF


def random_states() -> dict:
    """The states of Python's, numpy's and torch's generators, in types that load safely."""
    _, key, position, has_gauss, gauss = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=[torch.from_numpy(np.asarray(key, np.int64)), position, has_gauss, gauss],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    )


def set_random_states(states: dict) -> None:
    """Restore the states that `random_states` returned, from tensors on any device."""
    random.setstate(states['python'])
    key, *rest = states['numpy']
    np.random.set_state(('MT19937', key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Lets a resumed run equal an uninterrupted one. `CheckedRunner` adds it to every training.

    MMEngine restores weights, optimizer, schedules and moving averages. This hook also saves the
    random states of each process and the position in the epoch.

    A run that resumes at the end of an epoch is bitwise equal on a CPU with the same number of
    workers. A run that resumes within an epoch reads only the remaining batches (MMEngine starts
    the epoch again) and is bitwise equal with `num_workers=0`. The latter holds for iteration-based
    runs too; mmengine 0.10.7 needs an `InfiniteSampler` for it, which mmdet's configs have.

    Therefore workers restart in each epoch, seeded by the run's seed, the process and the
    iteration. Persistent workers would keep random states that cannot be saved, and MMEngine seeds
    other workers the same in each epoch. Validation does not change the random states.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.resumed: dict | None = None
        # One per process, if all processes take part in saving.
        self.gathered_states: list[dict] | None = None
        self.before_validation: dict | None = None
        self.whole_loader: DataLoader | None = None  # while the rest of an epoch is read
        self.batch = self.skipped = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the position of the interrupted run; log what it restores over the config."""
        if not is_resumed(runner):
            return
        warn_restored(runner, checkpoint)
        self.resumed = checkpoint.get('exact_resume')
        if self.resumed is None:
            runner.logger.warning(
                'the checkpoint has no random states, because ExactResumeHook did not write it: '
                'the random numbers of this run differ from those of an uninterrupted run'
            )

    def before_train(self, runner: Runner) -> None:
        """Seed the workers and the sampler; warn about schedules that end before the training.

        The loader's generator seeds each worker, the run's seed the sampler.
        """
        warn_ended(runner)
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            loop.dataloader.worker_init_fn = WorkerInit(loop.dataloader.worker_init_fn)
        sampler = _sampler(runner.train_dataloader)
        if is_resumed(runner) and hasattr(sampler, 'seed'):
            # With diff_rank_seed each process has its own seed, but all samplers need the same one.
            stored = (self.resumed or {}).get('sampler_seed')
            sampler.seed = runner.seed if stored is None else stored

    def before_train_epoch(self, runner: Runner) -> None:
        """Restart the workers; in a resumed run restore the states and skip completed batches."""
        loader = runner.train_dataloader
        seed = np.random.SeedSequence((runner.seed, get_rank(), runner.iter))
        loader.generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        restart_workers(loader)  # as mmdet's PipelineSwitchHook does
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        sampler = _sampler(loader)
        # MMEngine 0.10.7 has started to read already and would read all completed batches again.
        if isinstance(sampler, InfiniteSampler) and not hasattr(iterator, 'skip_iter'):
            restart_indices(sampler)
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
                f'the checkpoint has the random states of {len(states)} processes, but this run '
                f'has {get_world_size()}: its random numbers differ from those of an uninterrupted '
                'run'
            )
        done, batches = resumed['batch'], resumed['batches']
        if not done or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        if batches != len(loader) or loader.batch_sampler is None:
            runner.logger.warning(
                f'epoch {runner.epoch + 1} starts again: {done} of {batches} batches were '
                f'completed, but it now has {len(loader)}'
            )
            return
        runner.logger.info(
            f'epoch {runner.epoch + 1} resumes after {done} of {batches} batches', extra=BRIEF
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
        """Let the loop use its whole loader again."""
        self.batch = self.skipped = 0
        if self.whole_loader is not None:
            runner.train_loop.dataloader, self.whole_loader = self.whole_loader, None

    def before_val(self, runner: Runner) -> None:
        """Save the random states of the training."""
        self.before_validation = random_states()

    def after_val(self, runner: Runner) -> None:
        """Restore the random states of the training."""
        if self.before_validation is not None:
            set_random_states(self.before_validation)
        self.before_validation = None

    def before_processes_save(self, runner: Runner) -> None:
        """Gather the random states of all processes for the one that writes the checkpoint."""
        self.gathered_states = all_gather_object(self.before_validation or random_states())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the states and the position in the epoch in the checkpoint, as `exact_resume`."""
        checkpoint['exact_resume'] = dict(
            random_states=self.gathered_states or [self.before_validation or random_states()],
            batch=self.batch,
            batches=len(self.whole_loader or runner.train_dataloader),
            sampler_seed=getattr(_sampler(runner.train_dataloader), 'seed', None),
        )
        self.gathered_states = None


class WorkerInit:
    """Initialises a worker: calls the loader's own function, then seeds by the loader's generator.

    Only a SIGTERM from its parent ends the worker. A scheduler sends SIGTERM to all processes, but
    the training needs its workers to finish the iteration.
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
    """A loader that skips the first `done` batches without reading them."""
    return with_batch_sampler(loader, _RemainingBatches(loader.batch_sampler, done))


class _SkippingIterator:
    """An iterator over a loader that returns None for the first `done` batches."""

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
        self.sampler = batches.sampler  # MMEngine sets its epoch

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.done, None)

    def __len__(self) -> int:
        return len(self.batches) - self.done
