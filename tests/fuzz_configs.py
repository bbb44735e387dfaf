"""Fuzz the checks of configs: a random change is refused with one line, or the run begins.

Everything before the first iteration is run: checks, builds and the first batch. An interrupted
command continues from the counts in the file next to `--out`.

    python -m tests.fuzz_configs --inputs 10000 --seed 0 --out results/fuzz_configs.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop
from mmengine.visualization import Visualizer
from rich.progress import track

from cbam_det.checkpoints import loading
from cbam_det.datasets.digits import Digits, make
from cbam_det.datasets.validation.data_root import set_data_root
from cbam_det.engine import preflight
from cbam_det.engine.runner import CheckedRunner
from cbam_det.models.build import build_model
from cbam_det.utils.config import RUNNER_KEYS, find_config
from cbam_det.utils.errors import InputError

from .fuzz import command_line

CONFIGS = (
    *('faster_rcnn_r50_cbam_digits', 'faster_rcnn_r50_cbam_digits_voc'),
    *('ssd300_vgg16_cbam_digits_voc', 'retinanet_mobilenetv2_cbam_neck_digits'),
    *('rtmdet_tiny_cbam', 'faster_rcnn_r50_cbam_voc07'),
)
VALUES = (None, True, 0, 1, -1, 0.5, -2.5, '', 'x', '2', [], [1], ['x'], [None], {}, {'x': 1}, [{}])
SMALL = Digits(train=12, val=5, size=96, seed=3)


class Begun(BaseException):
    """A run has reached its first iteration."""


class ShippedConfig:
    """A shipped config with the small digits as its data, and its model."""

    def __init__(self, name: str, data: Path) -> None:
        cfg = Config.fromfile(find_config(name, announce=False))
        voc = 'voc' in name
        root = data / 'VOCdevkit' if voc else data
        if name.endswith('digits_voc'):
            root = root / 'VOC2007'
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False, batch_size=2)
            dataset = loader.dataset.get('dataset', loader.dataset)
            dataset.metainfo = dict(classes=DIGITS)
            if 'digits' not in name and not voc:
                evaluator = f'{split}_evaluator'
                dataset.data_root = 'data/coco/'
                if evaluator in cfg:
                    cfg[evaluator].ann_file = 'data/coco/annotations/instances_val2017.json'
        _ten_classes(cfg.model)
        set_data_root(cfg, str(root))
        self.name, self.cfg = name, cfg
        self.model = build_model(cfg)
        plain = cfg.to_dict()
        self.content = {key: plain[key] for key in plain if key in RUNNER_KEYS}


DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


def _ten_classes(node: object) -> None:
    """Set all heads of a model to the classes of the digits, without pretrained weights."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            node['num_classes'] = len(DIGITS)
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg']['type'] == 'Pretrained':
            node['init_cfg'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _ten_classes(child)


def mutate(content: dict, rng: random.Random) -> tuple[dict, str, str]:
    """Copy a config's content with one key removed, misspelt or changed.

    Returns:
        The copy, the dotted path of the key, and a description of the change.
    """
    content = copy.deepcopy(content)
    top = rng.choice(list(content))
    node, path = content, top
    key: object = top
    while _inside(node[key]) and rng.random() < 0.8:
        node = node[key]
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path += f'.{key}'
    old = node[key]
    action = rng.choice(('remove', 'misspell', *['replace'] * 4, *['convert'] * 3))
    if action == 'remove':
        del node[key]
    elif action == 'misspell' and isinstance(node, dict):
        node[f'{key}x'] = node.pop(key)
    elif action == 'convert':
        node[key] = rng.choice(_conversions(old))
        action = f'= {node[key]!r}'
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))
        action = f'= {node[key]!r}'
    return content, path, action[:200]


def _inside(node: object) -> bool:
    return isinstance(node, (dict, list)) and bool(node)


def _conversions(old: object) -> list:
    """Values similar to `old`: as a string, inside a list, as a list of its values, and so on."""
    values = [str(old), [old], {'x': old}]
    if isinstance(old, (int, float)):
        values += [-old, old * 10, float(old) + 0.5]
    if isinstance(old, dict):
        values += [list(old.values()), list(old)]
    if isinstance(old, (list, tuple)) and old:
        values += [old[0], list(old)[:-1], [*old, old[0]], dict(enumerate(old))]
    if isinstance(old, str):
        values += [old.upper(), f'{old} ', f'/{old}', {old}]
    return values


def begin_run(content: dict, shipped: ShippedConfig, path: str) -> str:
    """Begin a run with a config: 'begun', or 'refused: ...' with one line.

    Args:
        content: content of the changed config.
        shipped: the original config; its model is reused if the model's config is unchanged.
        path: dotted path of the changed key.

    Raises:
        Exception: anything but InputError, if cbam_det fails.
    """
    task = 'test' if path.startswith('test_') else 'train'
    of_model = path.startswith(('model', 'data_preprocessor'))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        content.setdefault('work_dir', 'work')
        cfg = Config(content, filename=find_config(shipped.name, announce=False))
        with _quick(shipped, of_model):
            try:
                runner = CheckedRunner.from_cfg(cfg, task)
                runner.train() if task == 'train' else runner.test()
            except Begun:
                return 'begun'
            except InputError as error:
                assert '\n' not in str(error)
                return f'refused: {error}'
    return 'ended'


@contextlib.contextmanager
def _quick(shipped: ShippedConfig, of_model: bool) -> Iterator[None]:
    """Skip slow steps that do not depend on the config, and build an unchanged model only once."""

    def begin(*_: object, **__: object) -> None:
        raise Begun

    def unchanged(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return tensor

    built = [shipped.model]

    def build(cfg: Config) -> torch.nn.Module:
        if of_model:
            built[0] = build_model(cfg)
        return built[0]

    changes = [
        # MMEngine sleeps at every lookup of a name.
        mock.patch(
            'mmengine.registry.default_scope.time', SimpleNamespace(sleep=id, time=time.time)
        ),
        # Data sets run the garbage collector, which takes seconds with all these modules.
        mock.patch('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int)),
        mock.patch('mmengine.runner.runner.collect_env', dict),
        mock.patch('cbam_det.engine.hooks.attention_audit_hook._text', str),
        mock.patch.object(Config, 'pretty_text', ''),
        mock.patch.object(Config, 'dump', return_value=''),
        mock.patch.object(preflight, 'build_model', build),
        mock.patch.object(Runner, 'build_model', lambda self, cfg: built[0]),
        mock.patch.object(Runner, 'load_checkpoint'),
        mock.patch.object(loading, 'check_checkpoint', lambda *args, **options: {}),
        *(
            mock.patch.object(kind, '_instance_dict', OrderedDict())
            for kind in (MMLogger, MessageHub, Visualizer, DetLocalVisualizer)
        ),
        *(
            mock.patch.object(loop, 'run_iter', begin)
            for loop in (EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop)
        ),
        *(mock.patch.object(torch.Tensor, name, unchanged) for name in ('normal_', 'uniform_')),
    ]
    if not of_model:
        changes.append(mock.patch.object(Runner, '_init_model_weights'))
    with contextlib.ExitStack() as stack:
        stack.enter_context(DefaultScope.overwrite_default_scope('mmdet'))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for change in changes:
            stack.enter_context(change)
        warnings.simplefilter('ignore')
        yield
        for logger in MMLogger._instance_dict.values():
            for handler in logger.handlers:
                handler.close()


def fuzz(inputs: int, seed: int, progress: Path | None = None) -> dict:
    """Change configs `inputs` times; returns outcomes by config, and the failures."""
    outcomes: dict[str, Counter] = {name: Counter() for name in CONFIGS}
    failures = []
    first = 0
    if progress and progress.is_file():
        saved = json.loads(progress.read_text(encoding='utf-8'))
        first, failures = saved['inputs'], saved['failures']
        outcomes = {name: Counter(counts) for name, counts in saved['outcomes'].items()}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / 'digits', SMALL)
        with DefaultScope.overwrite_default_scope('mmdet'):
            configs = [ShippedConfig(name, Path(folder) / 'digits') for name in CONFIGS]
        for number in track(range(first, inputs), 'changed configs', transient=True):
            rng = random.Random(f'{seed} {number}')
            shipped = configs[number % len(configs)]
            content, path, action = mutate(shipped.content, rng)
            try:
                outcome, _, message = begin_run(content, shipped, path).partition(':')
                if path.partition('.')[0] in message:
                    outcome = 'refused with its key'
            except Exception as error:
                outcome = 'failed'
                failures.append(
                    dict(
                        input=number,
                        change=f'{path} {action}',
                        error=f'{type(error).__name__}: {error}'[:300],
                    )
                )
            outcomes[shipped.name][outcome] += 1
            if progress and number % 100 == 99:
                state = dict(inputs=number + 1, outcomes=outcomes, failures=failures)
                progress.write_text(json.dumps(state), encoding='utf-8')
    return dict(inputs=inputs, seed=seed, outcomes=outcomes, failures=failures)


def main() -> int:
    def run(args: argparse.Namespace) -> dict:
        progress = args.out and args.out.with_suffix('.part.json')
        return fuzz(args.inputs, args.seed, progress)

    return command_line('tests.fuzz_configs', __doc__, 10_000, run)


if __name__ == '__main__':
    sys.exit(main())
