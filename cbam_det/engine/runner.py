"""MMEngine's runner with checks before a run, whole checkpoints and exact resumption.

`tools/train.py` and `tools/test.py` take it for each config. In mmdet's own tools, in `mim train`
and in scripts a config chooses it by one line, `runner_type = 'CheckedRunner'`.
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.evaluator import Evaluator
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger, print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import files, loading
from ..evaluation.metrics import fix_metrics, report_every_number
from ..models.attention_modules import named_plugins
from ..models.compat import allow_compilations, fix_ssd_heads, to_channels_last
from ..utils.build_errors import build_error, build_errors
from ..utils.environment import describe
from ..utils.errors import InputError, Stopped, end_by_one_line
from ..utils.files import atomic_write
from ..utils.records import scored, typed_command
from . import devices, failures, preflight
from .hooks.attention_audit_hook import AttentionAuditHook
from .hooks.detection_count_hook import DetectionCountHook
from .hooks.exact_resume_hook import random_states, set_random_states
from .hooks.stop_signals_hook import StopSignalsHook
from .hooks.terminal_hook import BRIEF, TerminalHook, is_terminal, shorten
from .names import OWN_HOOKS
from .preflight import Task

HookConfig: TypeAlias = Hook | dict


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """MMEngine's runner, which checks a config before it trains or tests by it.

    What it has beside MMEngine's:

    - the checks of `preflight.check_run`, before the first step of a training or a test; where
      `from_cfg` is told which of them follows, before anything is written;
    - the hooks of `names.OWN_HOOKS`, by which a training can be killed, stopped and resumed and
      its losses and attention are looked at; `None` in a config's `default_hooks` leaves one out;
    - checkpoints that have their name only when they are whole (`save_checkpoint`);
    - errors of the machine and of a config's keys in one line (`failures`, `build_errors`); a
      script that catches neither `InputError` nor `Stopped` ends by that line, with the status of
      our tools (`errors.end_by_one_line`);
    - `metrics.json` after a test.

    A config's `preflight` has its settings, all of them optional::

        preflight = dict(
            data_root='data/coco',   # folder that replaces the data root of every data set
            check_images=True,       # decode every image before the run
        )
    """

    def __init__(self, *args: object, **options: object) -> None:
        end_by_one_line()
        fix_ssd_heads()
        fix_metrics()
        self._checked_for: Task | None = None
        self._resume_from: str | None = None  # where the first process found a whole checkpoint
        self._resumed_at: int | None = None
        self._begun = False  # its first batch is read
        super().__init__(*args, **options)

    @classmethod
    def from_cfg(cls, cfg: Config | dict, task: Task | None = None) -> CheckedRunner:
        """Build the runner of a config, which is not changed.

        MMEngine's `Runner.from_cfg(cfg)` ignores `runner_type`, and so checks nothing; where the
        config chooses the runner, a script calls `RUNNERS.build(cfg)`, as mmdet's tools do.

        Args:
            cfg: a merged config with a `work_dir`.
            task: 'train' or 'test', for which the config is checked before the runner writes
                anything. Without it `train()` and `test()` check as they begin.

        Raises:
            InputError: `task` is another, there is no work_dir; see `preflight` and `loading`.
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
        devices.adapt_to_cpu(cfg)
        with build_errors(cfg):
            runner = super().from_cfg(cfg)
        runner._checked_for, runner._resume_from = task, resume_from
        return runner

    def _check(self, task: Task) -> None:
        """Check the run, where `from_cfg` was not told what it is; a runner of parts has no config
        that could be.
        """
        if self._checked_for != task and self.cfg.get('model'):
            states = random_states()  # the run is seeded, and the check builds a model
            self._resume_from = preflight.check_run(self.cfg, task)
            set_random_states(states)
            self._checked_for = task

    def build_logger(self, *args: Any, **options: Any) -> MMLogger:
        """MMEngine's, of which a terminal shows the warnings alone; see `TerminalHook`."""
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
        """MMEngine's and the config's hooks, and those of `OWN_HOOKS` that the config has not under
        another name; the audit where there is a plugin.

        Raises:
            InputError: the config has one of them twice.
        """
        hooks: dict[str, HookConfig | None] = dict(default_hooks or {})
        given = {name: hooks.pop(name) for name in OWN_HOOKS if name in hooks}
        elsewhere = {f'default_hooks.{name}': hook for name, hook in hooks.items()}
        elsewhere |= {
            f'custom_hooks.{place}': hook for place, hook in enumerate(custom_hooks or [])
        }
        for name, own_hook in OWN_HOOKS.items():
            options = given.get(name)
            if isinstance(options, dict):
                options = {**own_hook, **options}
            own_class = HOOKS.get(own_hook['type'])
            places = [
                path for path, hook in elsewhere.items() if issubclass(_kind(hook), own_class)
            ]
            if options is not None and issubclass(_kind(options), own_class):
                places.append(f'default_hooks.{name}')
            if len(places) > 1:
                raise InputError(
                    f'{" and ".join(places)} are each an {own_class.__name__}, of which a run has '
                    'one; leave all but one out'
                )
            is_wanted = own_class is not AttentionAuditHook or any(
                True for _ in named_plugins(self.model)
            )
            if name not in given and not places and is_wanted:
                options = own_hook
            if options is not None:
                hooks[name] = options
        super().register_hooks(hooks, custom_hooks)

    def register_hook(self, hook: HookConfig, priority: str | int | None = None) -> None:
        """MMEngine's `register_hook`, with `AtomicCheckpointHook` in `CheckpointHook`'s place."""
        if isinstance(hook, dict) and _kind(hook) is CheckpointHook:
            hook = {**hook, 'type': 'AtomicCheckpointHook'}
        super().register_hook(hook, priority)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        """MMEngine's, with mixed precision as a CPU has it where there is no GPU."""
        if isinstance(optim_wrapper, dict):
            on_cpu = devices.amp_on_cpu(optim_wrapper)
            if on_cpu != optim_wrapper:
                self.logger.info(
                    'mixed precision on the CPU: bfloat16 autocast in training, without loss '
                    'scaling; weights, gradients, losses, validation in float32',
                    extra=BRIEF,
                )
            optim_wrapper = on_cpu
        return super().build_optim_wrapper(optim_wrapper)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """MMEngine's, whose COCO evaluators report every number that they have."""
        if not isinstance(self._test_evaluator, Evaluator):
            report_every_number(self._test_evaluator)
        return super().build_test_loop(loop)

    def dump_config(self) -> None:
        """Nothing yet: `train` writes the config. In the same work_dir a test, whose own config is
        beside its log, would put it in the place of the training's.
        """

    def load_or_resume(self) -> None:
        """MMEngine's, from the checkpoint that the first process found whole; with `channels_last`,
        of a model in that format, whose weights were drawn before, so that they are the same.
        """
        if self.cfg.get('channels_last'):
            to_channels_last(self.model)
        if self._resume and self._load_from is None:
            if self._checked_for is None and is_main_process():
                self._resume_from = loading.last_readable_checkpoint(self.work_dir)
            checkpoint = [self._resume_from]
            broadcast_object_list(checkpoint)
            if checkpoint[0] is None:
                self.logger.info(
                    f'{self.work_dir} holds no checkpoint: the run begins', extra=BRIEF
                )
                return
            self._load_from: str | None = checkpoint[0]
        super().load_or_resume()

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        *args: object,
        **options: object,
    ) -> None:
        """MMEngine's, but a file has its name only when it is whole.

        Raises:
            OSError: it cannot be written; no part of it is left.
        """
        backend = get_file_backend(out_dir, backend_args=options.get('backend_args'))
        local = file_client_args is None and isinstance(backend, LocalBackend)
        if not (local and is_main_process()):
            super().save_checkpoint(out_dir, filename, file_client_args, *args, **options)
            return
        with atomic_write(Path(out_dir) / filename) as part:
            super().save_checkpoint(out_dir, part.name, None, *args, **options)

    def train(self) -> nn.Module:
        """Train, and say so where a resumed run was at its end already.

        Raises:
            InputError: the check found something; something cannot be built from the config, see
                `build_error`; the disk or the memory is full, or an image cannot be read; see
                `failures`.
            Stopped: by a signal, with a checkpoint (see `StopSignalsHook`), or at once by Ctrl-C.
        """
        self._check('train')
        super().dump_config()
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
                f'{self.max_epochs}; raise train_cfg.max_epochs to go on',
                extra=BRIEF,
            )
        return model

    @contextmanager
    def _explained(self, work_dir: str | None) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            hint = failures.resume_hint(work_dir)
            raise Stopped(f'interrupted; to go on, {hint}', signal.SIGINT) from None
        except Exception as error:
            explained = failures.explain(error, self.cfg, work_dir)
            if explained is None and not self._begun and not isinstance(error, InputError):
                explained = build_error(error, self.cfg)
            if explained is None:
                raise
            raise explained from error

    def call_hook(self, fn_name: str, **options: object) -> None:
        """MMEngine's, which notes that the first iteration begins."""
        self._begun |= fn_name in ('before_train_iter', 'before_val_iter', 'before_test_iter')
        super().call_hook(fn_name, **options)

    def resume(self, *args: object, **options: object) -> None:
        """MMEngine's `resume`, which notes where it starts."""
        super().resume(*args, **options)
        self._resumed_at = self.iter

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """MMEngine's, with a check that there is a batch.

        Raises:
            InputError: the images are fewer than a batch, and `drop_last` leaves it out.
        """
        built = super().build_train_loop(loop)
        loader = built.dataloader
        if isinstance(loader, DataLoader) and not len(loader):
            dataset: Any = loader.dataset
            raise InputError(
                f'train_dataloader: drop_last=True leaves no batch of {loader.batch_size} from '
                f'{len(dataset)} images; give a smaller batch_size'
            )
        return built

    def test(self) -> dict[str, float]:
        """Evaluate, and write the metrics to `metrics.json` in the run's log folder.

        Raises:
            InputError: the check found something; an image cannot be read, or the memory is full,
                see `failures`; a detector found nothing in any image.
            Stopped: by Ctrl-C.
        """
        self._check('test')
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
        counts.check()
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
        path.write_text(text + '\n', encoding='utf-8')
        print_log(f'metrics written to {path}', 'current')


def _kind(hook: HookConfig | None) -> type:
    """The class of a hook or of a hook's config; NoneType where the config names none."""
    if not isinstance(hook, dict):
        return type(hook)
    kind = hook.get('type')
    return (HOOKS.get(kind) if isinstance(kind, str) else kind) or type(None)
