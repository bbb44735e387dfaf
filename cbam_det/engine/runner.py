"""`tools/train.py` and `tools/test.py`: mmdet's own tools behind cbam_det's checks.

mmdet ships its tools in its package. Here their `Runner` is replaced by one that checks the run
first, and their parser gets two more options; all else, every option included, is mmdet's.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmdet
import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..checkpoints import loading
from ..datasets.validation.config import check_data, set_data_root
from ..models.build import build_model
from ..models.compat import to_channels_last
from ..utils.config import (
    enter_scope,
    find_config,
    kind_of,
    places_of,
    read_config,
    walk,
)
from ..utils.environment import check_device, check_operators, describe, keep_memory
from ..utils.errors import InputError, Stopped, one_line_errors
from ..utils.files import whole_file
from . import failures, preflight
from .hooks.stop_signals_hook import StopSignals

COCO_NUMBERS = [
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
]

# What each training has beside MMEngine's default hooks; None in a config leaves one out.
HOOKS_OF_TRAINING = dict(
    exact_resume=dict(type='ExactResume'),
    finite_losses=dict(type='FiniteLosses'),
    stop_signals=dict(type='StopSignals'),
)

EXAMPLES = {
    'train': 'example: python tools/train.py configs/faster_rcnn_r50_cbam_digits.py --resume',
    'test': 'example: python tools/test.py configs/faster_rcnn_r50_cbam_digits.py '
    'work_dirs/demo/epoch_5.pth --out predictions.pkl',
}


class CheckedRunner(Runner):
    """MMEngine's runner, which checks a config before it builds anything from it.

    Its trainings can be killed, stopped and resumed: see `HOOKS_OF_TRAINING`.

    Attributes:
        data_root: folder that replaces the config's data root, or None.
        check_images: decode every image in the check.
        testing: the run is a test, which writes `metrics.json`.
    """

    data_root: str | None = None
    check_images = False
    testing = False
    resume_from: str | None = None  # where the first process found a whole checkpoint
    _resumed_at: int | None = None

    @classmethod
    def from_cfg(cls, cfg: Config) -> CheckedRunner:
        """Check `cfg`, then build the runner.

        Raises:
            InputError: see `preflight` and `loading`.
        """
        cls.resume_from = None
        if cls.data_root is not None:
            set_data_root(cfg, cls.data_root)
        if not cls.testing:
            preflight.amp_on_cpu(cfg)
        enter_scope(cfg)
        if preflight.is_first_process(cfg):
            cls._check(cfg)
        preflight.adapt_to_cpu(cfg)
        if cls.testing:
            report_every_number(cfg)
        return super().from_cfg(cfg)

    @classmethod
    def _check(cls, cfg: Config) -> None:
        preflight.check_names(cfg, HOOKS_OF_TRAINING)
        if not (cls.testing or cfg.get('resume')):
            preflight.check_unused(cfg.work_dir)
        check_data(cfg, ('test',) if cls.testing else ('train', 'val'), cls.check_images)
        preflight.check_sync_bn(cfg, training=not cls.testing)
        model = build_model(cfg)
        if cls.testing:
            checkpoint = loading.check_checkpoint(cfg.load_from, 'checkpoint', model)
            loading.check_same_gates(cfg, checkpoint)
        else:
            if not cfg.get('resume'):
                loading.check_checkpoint(cfg.get('load_from'), 'load_from', model, whole=False)
            elif cfg.get('load_from'):
                checkpoint = loading.check_checkpoint(cfg.load_from, '--resume', model)
                loading.check_same_gates(cfg, checkpoint)
            else:
                cls.resume_from = loading.whole_checkpoint(cfg.work_dir, model, cfg)
            loading.check_pretrained(cfg)
            preflight.check_work_dir(cfg)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """MMEngine's and the config's hooks, and those of each training."""
        if not self.testing:
            hooks = {**HOOKS_OF_TRAINING, **(hooks or {})}
            absent = {name for name in HOOKS_OF_TRAINING if hooks[name] is None}
            hooks = {name: hook for name, hook in hooks.items() if name not in absent}
        super().register_default_hooks(hooks)

    def register_hook(self, hook: object, priority: object = None) -> None:
        """MMEngine's `register_hook`, with `WholeCheckpoints` in `CheckpointHook`'s place."""
        if isinstance(hook, dict) and _kind(hook) is CheckpointHook:
            hook = {**hook, 'type': 'WholeCheckpoints'}
        super().register_hook(hook, priority)

    def load_or_resume(self) -> None:
        """MMEngine's, from the checkpoint that the first process found whole; with `channels_last`,
        of a model in that format, whose weights were drawn before, so that they are the same.
        """
        if self.cfg.get('channels_last'):
            to_channels_last(self.model)
        if self._resume and self._load_from is None:
            found = [type(self).resume_from]
            broadcast_object_list(found)
            if found[0] is None:
                self.logger.info(f'{self.work_dir} holds no checkpoint: the run begins')
                return
            self._load_from = found[0]
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
        with whole_file(Path(out_dir) / filename) as part:
            super().save_checkpoint(out_dir, part.name, None, *args, **options)

    def train(self) -> nn.Module:
        """Train, and say so where a resumed run was at its end already.

        Raises:
            InputError: the disk is full, or memory is, or an image cannot be read; see `failures`.
            Stopped: by a signal, with a checkpoint (see `StopSignals`), or at once by Ctrl-C.
        """
        try:
            with self._explained(self.work_dir):
                model = super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, StopSignals):
                    hook.restore()
        if self._resume and self.iter == self._resumed_at:
            print_log(
                f'nothing was trained: the run had reached epoch {self.epoch} of '
                f'{self.max_epochs}; raise train_cfg.max_epochs to go on',
                'current',
            )
        return model

    @contextmanager
    def _explained(self, work_dir: str | None) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            how = failures.go_on(work_dir)
            raise Stopped(f'interrupted; to go on, {how}', signal.SIGINT) from None
        except Exception as error:
            if explained := failures.explain(error, self.cfg, work_dir):
                raise explained from error
            raise

    def resume(self, *args: object, **options: object) -> None:
        """MMEngine's `resume`, which notes where it starts."""
        super().resume(*args, **options)
        self._resumed_at = self.iter

    def test(self) -> dict[str, float]:
        """Evaluate, and write the metrics to `metrics.json` in the run's log folder.

        Raises:
            InputError: an image cannot be read, or the memory is full; see `failures`.
            Stopped: by Ctrl-C.
        """
        with self._explained(None):
            metrics = super().test()
        self._write_metrics(metrics)
        return metrics

    @master_only
    def _write_metrics(self, metrics: dict[str, float]) -> None:
        path = Path(self.log_dir) / 'metrics.json'
        record = dict(
            config=self.cfg.filename and Path(self.cfg.filename).name,
            checkpoint=str(self._load_from),
            command=shlex.join(['tools/test.py', *sys.argv[1:]]),
            seed=self.seed,
            environment=describe(),
            metrics={key: None if value != value else value for key, value in metrics.items()},
        )
        text = json.dumps(record, indent=2, allow_nan=False)
        path.write_text(text + '\n', encoding='utf-8')
        print_log(f'metrics written to {path}', 'current')


def _kind(hook: dict) -> type:
    return HOOKS.get(hook['type']) if isinstance(hook['type'], str) else hook['type']


def report_every_number(cfg: Config) -> None:
    """Let COCO evaluators report mmdet's twelve numbers and the AP of each class."""
    for _, node in walk(cfg.get('test_evaluator') or {}):
        metrics = node.get('metric', 'bbox')
        coco = kind_of(node) in ('CocoMetric', 'FastCocoMetric')
        if coco and 'bbox' in ([metrics] if isinstance(metrics, str) else metrics):
            node['classwise'] = True
            node.setdefault('metric_items', COCO_NUMBERS)


def _mmdet_tool(name: str) -> ModuleType:
    path = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    if not path.is_file():
        path = Path(mmdet.__file__).parents[1] / 'tools' / f'{name}.py'  # mmdet from source
    if not path.is_file():
        raise InputError(
            f'this mmdet ({Path(mmdet.__file__).parent}) has no tools/{name}.py; install it from '
            'a wheel, or in editable mode from a checkout'
        )
    spec = importlib.util.spec_from_file_location(f'mmdet_tool_{name}', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def _leave_gpu_without_operators() -> None:
    """Start again without the GPU where mmcv's operators cannot run on it, and say why."""
    device, why = check_device()
    if device == 'cpu' and torch.cuda.is_available():
        print(f'running on the CPU: {why}', file=sys.stderr, flush=True)
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """Run mmdet's tool `name`, 'train' or 'test', with the checks; returns the exit status."""
    return one_line_errors(lambda: _run(name, sys.argv[1:] if argv is None else list(argv)))


def _run(name: str, argv: list[str]) -> None:
    loading.read_weights_only()
    tool = _mmdet_tool(name)

    def parser(description: str) -> argparse.ArgumentParser:
        made = argparse.ArgumentParser(prog=f'{name}.py', description=description)
        made.epilog = EXAMPLES[name]
        made.add_argument('--data-root', help="folder to read instead of the config's data_root")
        made.add_argument(
            '--check-images', action='store_true', help='decode every image before the run'
        )
        return made

    mmdet_parse_args = tool.parse_args
    given: dict[str, Config] = {}

    def parse_args() -> argparse.Namespace:
        try:
            args = mmdet_parse_args()
        except ValueError as error:
            raise InputError(f'--cfg-options takes key=value pairs ({error})') from None
        if args.launcher == 'pytorch' and 'RANK' not in os.environ:
            raise InputError(f'--launcher pytorch needs torchrun; use tools/dist_{name}.sh')
        if not str(getattr(args, 'out', None) or '.pkl').endswith(('.pkl', '.pickle')):
            raise InputError(f'--out {args.out}: predictions are pickled; end it in .pkl')
        args.config = find_config(args.config)
        cfg = given['cfg'] = read_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        preflight.check_runner(cfg)
        CheckedRunner.data_root = args.data_root
        CheckedRunner.check_images = args.check_images
        return args

    CheckedRunner.testing = name == 'test'
    tool.argparse = SimpleNamespace(ArgumentParser=parser)
    tool.parse_args = parse_args
    tool.Runner = CheckedRunner
    sys.argv[1:] = argv
    if not {'-h', '--help'} & set(argv):
        if problem := check_operators():
            raise InputError(str(problem).replace('\n    ', '; '))
        _leave_gpu_without_operators()
        if not torch.cuda.is_available():
            keep_memory()
    try:
        tool.main()
    except TypeError as error:
        words = r"(\w*)\.?__init__\(\) got an unexpected keyword argument '(\w+)'"
        key = re.search(words, str(error))
        if not (key and given):
            raise
        where = places_of(given['cfg'], key[2], key[1])
        raise InputError(
            f'the config or --cfg-options name an unknown key: {error}{where}'
        ) from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads can abort a process that ends. The runner's cycles hold it by the model.
        torch.distributed.destroy_process_group()
        gc.collect()
