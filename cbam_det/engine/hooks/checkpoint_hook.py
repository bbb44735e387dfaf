"""MMEngine's CheckpointHook, but with a complete checkpoint on disk at any time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...utils.files import atomic_write
from ...utils.options import cfg_options


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Replaces `CheckpointHook`, with the same options, in every run of a `CheckedRunner`.

    MMEngine deletes old checkpoints (`max_keep_ckpts`, a previous best one) before it writes the
    new one, and overwrites the file `last_checkpoint`. This hook deletes old checkpoints afterwards
    and replaces `last_checkpoint` atomically. The runner writes checkpoints atomically.
    """

    def before_train(self, runner: Runner) -> None:
        """MMEngine's; warns where an interval of epochs meets a training that is one epoch."""
        super().before_train(runner)
        loop = runner.train_loop
        if self.by_epoch and isinstance(loop, IterBasedTrainLoop):
            place = 'default_hooks.checkpoint'
            options = {f'{place}.by_epoch': False, f'{place}.interval': loop.val_interval}
            runner.logger.warning(
                f'{place}.by_epoch=True in a training by iterations: no checkpoint is written '
                f'before its end; give {cfg_options(options)}'
            )

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> Path:
        """Write the checkpoint `stopped.pth` now; every process must call this.

        Args:
            runner: the runner.
            epoch: the number of completed epochs.
            iteration: the number of completed iterations.

        Returns:
            The path of the file. A later call replaces the file.
        """
        runner.call_hook('before_processes_save')
        meta = dict(epoch=epoch, iter=iteration)
        runner.save_checkpoint(
            self.out_dir,
            'stopped.pth',
            self.file_client_args,
            backend_args=self.backend_args,
            by_epoch=False,
            meta=meta,
        )
        path = self.file_backend.join_path(self.out_dir, 'stopped.pth')
        if is_main_process():
            with atomic_write(Path(runner.work_dir) / 'last_checkpoint') as part:
                part.write_text(str(path), encoding='utf-8')
        return Path(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        runner.call_hook('before_processes_save')
        last = Path(runner.work_dir) / 'last_checkpoint'
        temporary = last.with_name('folder.part')  # `save_now` uses last_checkpoint.part
        with self._delete_later():
            if not is_main_process():
                super()._save_checkpoint_with_step(runner, step, meta)
                return
            temporary.mkdir(exist_ok=True)
            try:
                super()._save_checkpoint_with_step(
                    _RunnerWithWorkDir(runner, str(temporary)), step, meta
                )
                with atomic_write(last) as part:
                    part.write_text(str(self.last_ckpt), encoding='utf-8')
            finally:
                shutil.rmtree(temporary)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._delete_later():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _delete_later(self) -> Iterator[None]:
        """Delete files only at the end of the context; after an error nothing is deleted."""
        backend, deferred = self.file_backend, []
        removals = {name: getattr(backend, name) for name in ('remove', 'rmtree')}
        for name, remove in removals.items():
            setattr(backend, name, lambda path, remove=remove: deferred.append((remove, path)))
        try:
            yield
        finally:
            for name, remove in removals.items():
                setattr(backend, name, remove)
        current = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        current.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for remove, path in deferred:
            if path not in current:  # a new checkpoint may have the old one's name
                remove(path)


class _RunnerWithWorkDir:
    """A runner with another work_dir, into which MMEngine writes `last_checkpoint`."""

    def __init__(self, runner: Runner, work_dir: str) -> None:
        self.runner, self.work_dir = runner, work_dir

    def __getattr__(self, name: str) -> object:
        return getattr(self.runner, name)
