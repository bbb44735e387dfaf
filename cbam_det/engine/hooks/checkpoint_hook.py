"""MMEngine's CheckpointHook, so that at each moment a whole checkpoint lies on the disk."""

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
    """Takes the place and the options of `CheckpointHook` in each run of a `CheckedRunner`.

    MMEngine removes what is too many (`max_keep_ckpts`, a best checkpoint that is not the best any
    more) before it writes the new one, and writes `last_checkpoint` in place; here the old ones go
    after, and `last_checkpoint` is replaced. The runner writes the checkpoints themselves whole.
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
        """Write `stopped.pth`, a checkpoint between two others; called in every process.

        Args:
            runner: the runner.
            epoch: epochs that are done.
            iteration: iterations that are done.

        Returns:
            The file. There is one in a run: a later call replaces it.
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
                part.write_text(str(path))
        return Path(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        runner.call_hook('before_processes_save')
        last = Path(runner.work_dir) / 'last_checkpoint'
        temporary = last.with_name('folder.part')  # `save_now` has last_checkpoint.part
        with self._removed_later():
            if not is_main_process():
                super()._save_checkpoint_with_step(runner, step, meta)
                return
            temporary.mkdir(exist_ok=True)
            try:
                super()._save_checkpoint_with_step(
                    _RunnerWithWorkDir(runner, str(temporary)), step, meta
                )
                with atomic_write(last) as part:
                    part.write_bytes((temporary / last.name).read_bytes())
            finally:
                shutil.rmtree(temporary)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removed_later():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removed_later(self) -> Iterator[None]:
        """What is removed inside goes at the end, unless that is reached by an error."""
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
            if path not in current:  # written anew under the same name
                remove(path)


class _RunnerWithWorkDir:
    """A runner but for its work_dir, into which MMEngine writes `last_checkpoint`."""

    def __init__(self, runner: Runner, work_dir: str) -> None:
        self.runner, self.work_dir = runner, work_dir

    def __getattr__(self, name: str) -> object:
        return getattr(self.runner, name)
