"""`tools/train.py` and `tools/test.py`: mmdet's own tools behind cbam_det's checks.

mmdet ships its tools in its package. Here their `Runner` is replaced by one that checks the run
first, and their parser gets two more options; all else, every option included, is mmdet's.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmdet
import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.runner import Runner

from . import preflight
from .environment import check_device, check_operators, describe
from .errors import InputError, one_line_errors, some

COCO_NUMBERS = [
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l'),
    *('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
]

EXAMPLES = {
    'train': 'example: python tools/train.py configs/faster_rcnn_r50_cbam_digits.py --resume',
    'test': 'example: python tools/test.py configs/faster_rcnn_r50_cbam_digits.py '
    'work_dirs/demo/last.pth --out predictions.pkl',
}


class CheckedRunner(Runner):
    """MMEngine's runner, which checks a config before it builds anything from it.

    Attributes:
        data_root: folder that replaces the config's data root, or None.
        check_images: decode every image in the check.
        testing: the run is a test, which writes `metrics.json`.
    """

    data_root: str | None = None
    check_images = False
    testing = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> CheckedRunner:
        """Check `cfg`, then build the runner.

        Raises:
            InputError: see `preflight`.
        """
        if cls.data_root is not None:
            preflight.set_data_root(cfg, cls.data_root)
        preflight.check_amp(cfg)
        if preflight.is_first_process():
            preflight.check_checkpoint(
                cfg.get('load_from'), 'checkpoint' if cls.testing else 'load_from or --resume'
            )
            splits = ('test',) if cls.testing else ('train', 'val')
            preflight.check_data(cfg, splits, cls.check_images)
            if not cls.testing:
                preflight.check_pretrained(cfg)
        preflight.adapt_to_cpu(cfg)
        if cls.testing:
            report_every_number(cfg)
        return super().from_cfg(cfg)

    def load_checkpoint(self, filename: str, *args: object, **kwargs: object) -> dict:
        """Load weights; where the whole model comes from `filename`, it has to fit.

        Raises:
            InputError: in a test or on `--resume`, a weight is missing, left over or of another
                shape; in training with `load_from`, nothing fits at all.
        """
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        own = (self.model.module if hasattr(self.model, 'module') else self.model).state_dict()
        state = checkpoint.get('state_dict', checkpoint)
        given = {key.removeprefix('module.'): value for key, value in state.items()}
        missing = [key for key in own if key not in given]
        unexpected = [key for key in given if key not in own]
        other = [key for key in own if key in given and own[key].shape != given[key].shape]
        whole = self.testing or self._resume
        if (missing or unexpected or other) if whole else len(missing) + len(other) == len(own):
            faults = [
                f'{len(keys)} weights {what} ({some(keys)})'
                for what, keys in (
                    ('missing in the file', missing),
                    ('unknown to the model', unexpected),
                    ('of another shape', other),
                )
                if keys
            ]
            raise InputError(
                f'{filename} does not fit the model of this config: {"; ".join(faults)}; '
                'give the config that the checkpoint was trained with'
            )
        return checkpoint

    def test(self) -> dict[str, float]:
        """Evaluate, and write the metrics to `metrics.json` in the run's log folder."""
        metrics = super().test()
        self._write_metrics(metrics)
        return metrics

    @master_only
    def _write_metrics(self, metrics: dict[str, float]) -> None:
        path = Path(self.log_dir) / 'metrics.json'
        record = dict(
            config=self.cfg.filename and Path(self.cfg.filename).name,
            checkpoint=str(self._load_from),
            command=' '.join(['tools/test.py', *sys.argv[1:]]),
            seed=self.seed,
            environment=describe(),
            metrics=metrics,
        )
        path.write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
        print_log(f'metrics written to {path}', 'current')


def report_every_number(cfg: Config) -> None:
    """Let COCO evaluators report all twelve numbers and the AP of each class."""
    for _, node in preflight.walk(cfg.get('test_evaluator') or {}):
        if node.get('type') == 'CocoMetric' and node.get('metric', 'bbox') == 'bbox':
            node['classwise'] = True
            node.setdefault('metric_items', COCO_NUMBERS)


def config_folder() -> Path:
    """The folder of the shipped configs, in a checkout or in an installed package."""
    package = Path(__file__).parent
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def find_config(name: str) -> str:
    """A config by its path, or a shipped one by its name.

    Raises:
        InputError: there is none; the message lists near names.
    """
    if Path(name).is_file():
        return name
    shipped = {path.stem: path for path in sorted(config_folder().glob('*.py'))}
    stem = Path(name).stem
    if stem in shipped and Path(name).parent.name in ('', 'configs'):
        return str(shipped[stem])
    near = difflib.get_close_matches(stem, shipped, 3, 0.4) or list(shipped)
    raise InputError(
        f'no config {name} below {Path.cwd()}, and none of that name is shipped in '
        f'{config_folder()}; near: {some(near)}'
    )


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

    def parse_args() -> argparse.Namespace:
        args = mmdet_parse_args()
        args.config = find_config(args.config)
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
    tool.main()
