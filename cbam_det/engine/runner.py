"""MMEngine's runner with checks before a run, atomic checkpoints and exact resuming.

`tools/train.py` and `tools/test.py` use it for every config. mmdet's own tools, `mim train` and
scripts use it if the config has the line `runner_type = 'CheckedRunner'`.
"""

from __future__ import annotations

import copy
import json
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.evaluator import Evaluator
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import files, loading
from ..evaluation.metrics import (
    FastCocoMetric,
    fix_metrics,
    report_every_number,
    with_fast_metrics,
)
from ..models.attention_modules import named_plugins
from ..models.channels_last import align_states, contiguous_checkpoint, set_format, to_channels_last
from ..models.compat import allow_compilations, fix_ssd_heads
from ..utils.build_errors import build_error, build_errors
from ..utils.environment import describe
from ..utils.errors import InputError
from ..utils.exits import Stopped, end_by_one_line
from ..utils.files import atomic_write
from ..utils.mmengine_private import loaded_checkpoint
from ..utils.records import scored, typed_command
from ..utils.value_types import typed
from . import devices, failures, preflight
from .config_dump import dump_config
from .hooks.detection_count_hook import DetectionCountHook
from .hooks.exact_resume_hook import random_states, set_random_states
from .hooks.stop_signals_hook import StopSignalsHook
from .hooks.terminal_hook import BRIEF, TerminalHook, is_terminal, shorten
from .own_hooks import HookConfig, class_of, with_own_hooks
from .preflight import Task


def check_batches(loader: DataLoader) -> None:
    """Check that a training has at least one batch.

    Raises:
        InputError: there are fewer images than in a batch, and `drop_last` drops them.
    """
    if not len(loader):
        dataset: Any = loader.dataset
        raise InputError(
            f'train_dataloader: drop_last=True leaves no batch of {loader.batch_size} from '
            f'{len(dataset)} images; give a smaller batch_size'
        )


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """MMEngine's runner, which checks a config before it trains or tests.

    It adds to MMEngine's runner:

    - the checks of `preflight.check_run` before the first step of a training or a test, or before
      anything is written if `from_cfg` gets the task;
    - the hooks of `own_hooks.OWN_HOOKS`, which let a training be stopped, killed and resumed, check
      its losses and its attention, and write a report at its end; `None` in the config's
      `default_hooks` turns one off;
    - checkpoints that get their name only when they are complete (`save_checkpoint`);
    - `FastCocoMetric`, COCO's evaluation in C++, in place of mmdet's CocoMetric, whose numbers it
      has; `fast_coco_eval=False` in the config keeps pycocotools;
    - one-line errors for faults of the machine and of config keys (`failures`, `build_errors`); a
      script that does not catch `InputError` or `Stopped` ends with that line and the exit status
      of our tools (`exits.end_by_one_line`);
    - the file `metrics.json` after a test.

    Its settings are in the config's `preflight`; all of them are optional::

        preflight = dict(
            data_root='data/coco',   # a folder that replaces the data root of every data set
            check_images=True,       # decode every image before the run
        )
    """

    def __init__(self, *args: object, **options: object) -> None:
        end_by_one_line()
        fix_ssd_heads()
        fix_metrics()
        self._checked_for: Task | None = None
        self._resume_from: str | None = None  # found by the first process
        self._resumed_at: int | None = None
        self._begun = False  # whether the first batch was read
        self._resume: bool | str  # 'auto' until the checkpoint is known, see load_or_resume
        super().__init__(*args, **options)
        end_by_one_line()  # again, outside of the hook of torch's process group, which hides output

    @classmethod
    def from_cfg(cls, cfg: Config | dict, task: Task | None = None) -> CheckedRunner:
        """Build the runner of a config, which is not changed.

        MMEngine's `Runner.from_cfg(cfg)` ignores `runner_type` and therefore checks nothing. A
        script in which the config chooses the runner calls `RUNNERS.build(cfg)`, as mmdet's tools
        do.

        Args:
            cfg: a merged config with a `work_dir`.
            task: 'train' or 'test' to check the config for this task before the runner writes
                anything; None to check at the start of `train()` and `test()`.

        Raises:
            InputError: `task` is unknown, there is no work_dir, or a check of `preflight` or
                `loading` fails.
        """
        end_by_one_line()
        if task not in (None, 'train', 'test'):
            raise InputError(f"task={task!r} is unknown; give 'train', 'test' or None")
        cfg = Config(cfg) if isinstance(cfg, dict) else copy.deepcopy(cfg)
        files.read_weights_only()
        allow_compilations()
        preflight.prepare(cfg)
        if not cfg.get('work_dir'):
            raise InputError(
                'the config has no work_dir, the folder of logs and checkpoints; give '
                "work_dir='...' in it, or --work-dir to a tool"
            )
        resume_from = preflight.check_run(cfg, task) if task else None
        devices.set_timeout(cfg)
        devices.adapt_to_cpu(cfg)
        with build_errors(cfg):
            runner = super().from_cfg(cfg)
        runner._checked_for, runner._resume_from = task, resume_from
        return runner

    def _check(self, task: Task) -> None:
        """Check the run if `from_cfg` has not; a runner that is built from parts has no config."""
        if self._checked_for != task and self.cfg.get('model'):
            states = random_states()  # building a model draws from the generators of the run
            self._resume_from = preflight.check_run(self.cfg, task)
            set_random_states(states)
            self._checked_for = task

    def build_logger(self, *args: Any, **options: Any) -> MMLogger:
        """MMEngine's logger; a terminal shows only its warnings, see `TerminalHook`."""
        logger = super().build_logger(*args, **options)
        wants_all = (self.cfg.get('default_hooks') or {}).get('terminal', {}) is None
        if is_terminal() and not wants_all:
            shorten(logger)
        return logger

    def register_hooks(
        self,
        default_hooks: Mapping[str, HookConfig | None] | None = None,
        custom_hooks: Sequence[HookConfig] | None = None,
    ) -> None:
        """Register MMEngine's hooks, the config's, and `OWN_HOOKS`; see `with_own_hooks`.

        Raises:
            InputError: the config has one of `OWN_HOOKS` twice, or a hook's `switch_pipeline` is
                not a list.
        """
        hooks = with_own_hooks(default_hooks, custom_hooks, any(named_plugins(self.model)))
        for place, hook in enumerate(custom_hooks or []):
            if isinstance(hook, dict) and 'switch_pipeline' in hook:
                # mmdet's hook builds it when it switches, which may be hundreds of epochs later.
                Compose(typed(hook, 'switch_pipeline', list | tuple, f'custom_hooks.{place}'))
        super().register_hooks(hooks, custom_hooks)

    def register_hook(self, hook: HookConfig, priority: str | int | None = None) -> None:
        """MMEngine's `register_hook`, with `AtomicCheckpointHook` instead of `CheckpointHook`."""
        if isinstance(hook, dict) and class_of(hook) is CheckpointHook:
            hook = {**hook, 'type': 'AtomicCheckpointHook'}
        super().register_hook(hook, priority)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        """MMEngine's `build_optim_wrapper`, with the mixed precision of `devices.adapt_amp`."""
        if isinstance(optim_wrapper, dict):
            adapted = devices.adapt_amp(optim_wrapper)
            if adapted != optim_wrapper and not torch.cuda.is_available():
                self.logger.info(
                    'mixed precision on the CPU: bfloat16 autocast in training, without loss '
                    'scaling; weights, gradients, losses, validation in float32',
                    extra=BRIEF,
                )
            optim_wrapper = adapted
        return super().build_optim_wrapper(optim_wrapper)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """MMEngine's `build_test_loop`, whose COCO evaluators report all of their metrics."""
        if not isinstance(self._test_evaluator, Evaluator):
            report_every_number(self._test_evaluator)
        return super().build_test_loop(loop)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """MMEngine's `build_evaluator`, with `FastCocoMetric` instead of mmdet's CocoMetric.

        The config keeps its CocoMetric, so that other tools can read it without cbam_det.
        """
        if self.cfg.get('fast_coco_eval', True):
            evaluator = with_fast_metrics(evaluator)
        built = super().build_evaluator(evaluator)
        if any(isinstance(metric, FastCocoMetric) for metric in built.metrics):
            self.logger.info("faster-coco-eval computes COCO's numbers")
        return built

    def dump_config(self) -> None:
        """Do nothing; `train` writes the config.

        A test in the same work_dir would overwrite the config of the training. The config of the
        test is beside its log.
        """

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """MMEngine's `wrap_model`; DDP copies every gradient if `channels_last` is set later."""
        if self.cfg.get('channels_last'):
            to_channels_last(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """Initialise contiguous weights, so that `channels_last` does not change their values."""
        if not self.cfg.get('channels_last'):
            super()._init_model_weights()
            return
        self.model.to(memory_format=torch.contiguous_format)
        super()._init_model_weights()
        set_format(self.model)

    def load_or_resume(self) -> None:
        """MMEngine's `load_or_resume`, from the checkpoint that the first process found.

        With `resume='auto'`, `load_from` are the weights of a run whose work_dir has no checkpoint.
        """
        if self._resume and (self._load_from is None or self._resume == 'auto'):
            if self._checked_for is None and is_main_process():
                self._resume_from = loading.last_readable_checkpoint(self.work_dir)
            checkpoint = [self._resume_from]
            broadcast_object_list(checkpoint)
            self._resume = checkpoint[0] is not None
            if self._resume:
                self._load_from: str | None = checkpoint[0]
            else:
                start = f' from {self._load_from}' if self._load_from else ''
                self.logger.info(
                    f'{self.work_dir} has no checkpoint: a new run starts{start}', extra=BRIEF
                )
        super().load_or_resume()

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        *args: object,
        **options: object,
    ) -> None:
        """MMEngine's `save_checkpoint`, but a file gets its name only when it is complete.

        Raises:
            OSError: the file cannot be written; no part of it is left.
        """
        backend = get_file_backend(out_dir, backend_args=options.get('backend_args'))
        local = file_client_args is None and isinstance(backend, LocalBackend)
        if not (local and is_main_process()):
            super().save_checkpoint(out_dir, filename, file_client_args, *args, **options)
            return
        with atomic_write(Path(out_dir) / filename) as part:
            super().save_checkpoint(out_dir, part.name, None, *args, **options)

    def train(self) -> nn.Module:
        """Train; if a resumed run was already complete, log that nothing was trained.

        Raises:
            InputError: a check fails; something cannot be built from the config, see `build_error`;
                or the disk or the memory is full or an image cannot be read, see `failures`.
            Stopped: by a signal, with a checkpoint (see `StopSignalsHook`), or at once by Ctrl-C.
        """
        self._check('train')
        if is_main_process():
            dump_config(self)
        try:
            with self._explained(self.work_dir):
                model = super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, StopSignalsHook):
                    hook.restore()
                elif isinstance(hook, TerminalHook):
                    hook.close(self)
        if self._resume and self.iter == self._resumed_at:
            self.logger.info(
                f'nothing was trained: the run had reached epoch {self.epoch} of '
                f'{self.max_epochs}; raise train_cfg.max_epochs to continue',
                extra=BRIEF,
            )
        return model

    @contextmanager
    def _explained(self, work_dir: str | None) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            hint = failures.resume_hint(work_dir)
            raise Stopped(f'interrupted; to continue, {hint}', signal.SIGINT) from None
        except Exception as error:
            explained = failures.explain(error, self.cfg, work_dir)
            if explained is None and not self._begun and not isinstance(error, InputError):
                explained = build_error(error, self.cfg)
            if explained is None:
                raise
            raise explained from error

    def call_hook(self, fn_name: str, **options: Any) -> None:
        """MMEngine's `call_hook`, which also notes that the first iteration starts, and makes the
        tensors of a checkpoint contiguous, so that a run without `channels_last` can resume it.
        """
        self._begun |= fn_name in ('before_train_iter', 'before_val_iter', 'before_test_iter')
        super().call_hook(fn_name, **options)
        if fn_name == 'before_save_checkpoint' and self.cfg.get('channels_last'):
            contiguous_checkpoint(options['checkpoint'])

    def resume(self, *args: object, **options: object) -> None:
        """MMEngine's `resume`, which also notes the iteration at which the run continues.

        The optimizer's states get the memory format of their weights, see `align_states`.
        """
        super().resume(*args, **options)
        if isinstance(self.optim_wrapper, OptimWrapper):  # none is built for a test
            align_states(self.optim_wrapper)
        self._resumed_at = self.iter

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """MMEngine's `build_train_loop`, with a check that there is at least one batch.

        torch warns of more workers than cores when a loader is built, and then in every epoch; the
        warning is shown once.

        Raises:
            InputError: there are fewer images than in a batch, and `drop_last` drops them.
        """
        built = super().build_train_loop(loop)
        if isinstance(built.dataloader, DataLoader):
            check_batches(built.dataloader)
            warnings.filterwarnings('ignore', 'This DataLoader will create')
        return built

    def test(self) -> dict[str, float]:
        """Evaluate, and write the metrics to `metrics.json` in the run's log folder.

        Raises:
            InputError: a check fails; an image cannot be read or the memory is full, see
                `failures`; or a detector found nothing in any image.
            Stopped: by Ctrl-C.
        """
        self._check('test')
        self._resume = False  # a test loads weights alone; the dump of a config may have it
        counts = DetectionCountHook()
        self.register_hook(counts)
        try:
            with self._explained(None):
                metrics = super().test()
        finally:
            self.hooks.remove(counts)
            for hook in self.hooks:
                if isinstance(hook, TerminalHook):
                    hook.close(self)
        self._write_metrics(metrics)
        counts.check(loaded_checkpoint(self))
        return metrics

    @master_only
    def _write_metrics(self, metrics: dict[str, float]) -> None:
        path = Path(self.log_dir) / 'metrics.json'
        record = dict(
            config=self.cfg.filename and Path(self.cfg.filename).name,
            checkpoint=str(self._load_from),
            command=typed_command(),
            seed=self.seed,
            environment=describe(),
            metrics=scored(metrics),
        )
        text = json.dumps(record, indent=2, allow_nan=False)
        with atomic_write(path) as part:
            part.write_text(text + '\n', encoding='utf-8')
        self.logger.info(f'metrics written to {path}', extra=BRIEF)
