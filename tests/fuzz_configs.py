"""Shipped configs with a key changed at random: each is refused in one line, or its run begins.

All that comes before the first iteration runs: the checks, the builds, the first batch. A second
run of a command goes on where the first was stopped, from the counts beside `--out`.

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

LEAVES = (
    *('faster_rcnn_r50_cbam_digits', 'faster_rcnn_r50_cbam_digits_voc'),
    *('ssd300_vgg16_cbam_digits_voc', 'retinanet_mobilenetv2_cbam_neck_digits'),
    *('rtmdet_tiny_cbam', 'faster_rcnn_r50_cbam_voc07'),
)
VALUES = (None, True, 0, 1, -1, 0.5, -2.5, '', 'x', '2', [], [1], ['x'], [None], {}, {'x': 1}, [{}])
SMALL = Digits(train=12, val=5, size=96, seed=3)


class Begun(BaseException):
    """A run is at its first iteration."""


class Leaf:
    """A shipped config on the small embedded set, and its model."""

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
    """Let every head of a model predict the embedded set's classes, from a random start."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            node['num_classes'] = len(DIGITS)
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg']['type'] == 'Pretrained':
            node['init_cfg'] = None
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            _ten_classes(child)


def mutate(content: dict, rng: random.Random) -> tuple[dict, str, str]:
    """A copy of a config's content with one key removed, misspelt, or of another value.

    Returns:
        The copy, the key's dotted path, and what was done to it.
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
    """Values that are near to one: its text, it in a list, a list of a dictionary's values."""
    found = [str(old), [old], {'x': old}]
    if isinstance(old, (int, float)):
        found += [-old, old * 1000, float(old) + 0.5]
    if isinstance(old, dict):
        found += [list(old.values()), list(old)]
    if isinstance(old, (list, tuple)) and old:
        found += [old[0], list(old)[:-1], [*old, old[0]], dict(enumerate(old))]
    if isinstance(old, str):
        found += [old.upper(), f'{old} ', f'/{old}', {old}]
    return found


def begin_run(content: dict, leaf: Leaf, path: str) -> str:
    """Let a run begin by a config: 'begun', or 'refused' in one line.

    Args:
        content: of the config.
        leaf: what it was made of; its model is taken where the change is elsewhere.
        path: of the key that is changed.

    Raises:
        Exception: of any kind but InputError, where the product fails.
    """
    task = 'test' if path.startswith('test_') else 'train'
    of_model = path.startswith(('model', 'data_preprocessor'))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        content.setdefault('work_dir', 'work')
        cfg = Config(content, filename=find_config(leaf.name, announce=False))
        with _quick(leaf, of_model):
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
def _quick(leaf: Leaf, of_model: bool) -> Iterator[None]:
    """What costs time and depends on no key is left out; a model is built once."""

    def begin(*_: object, **__: object) -> None:
        raise Begun

    def unchanged(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return tensor

    made = [leaf.model]

    def build(cfg: Config) -> torch.nn.Module:
        if of_model:
            made[0] = build_model(cfg)
        return made[0]

    changes = [
        # MMEngine sleeps whenever it looks a name up, and gives the processor to others.
        mock.patch(
            'mmengine.registry.default_scope.time', SimpleNamespace(sleep=id, time=time.time)
        ),
        # Data sets collect garbage, which takes seconds with all modules in it.
        mock.patch('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=int)),
        mock.patch('mmengine.runner.runner.collect_env', dict),
        mock.patch('cbam_det.engine.hooks.attention_audit_hook._text', str),
        mock.patch.object(Config, 'pretty_text', ''),
        mock.patch.object(Config, 'dump'),
        mock.patch.object(preflight, 'build_model', build),
        mock.patch.object(Runner, 'build_model', lambda self, cfg: made[0]),
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
    """Change `inputs` configs; outcomes by config, and the first inputs that failed."""
    outcomes: dict[str, Counter] = {name: Counter() for name in LEAVES}
    failures = []
    first = 0
    if progress and progress.is_file():
        kept = json.loads(progress.read_text(encoding='utf-8'))
        first, failures = kept['inputs'], kept['failures']
        outcomes = {name: Counter(counts) for name, counts in kept['outcomes'].items()}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / 'digits', SMALL)
        with DefaultScope.overwrite_default_scope('mmdet'):
            leaves = [Leaf(name, Path(folder) / 'digits') for name in LEAVES]
        for number in track(range(first, inputs), 'changed configs', transient=True):
            rng = random.Random(f'{seed} {number}')
            leaf = leaves[number % len(leaves)]
            content, path, action = mutate(leaf.content, rng)
            try:
                outcome, _, message = begin_run(content, leaf, path).partition(':')
                if path.partition('.')[0] in message:
                    outcome = 'refused with its place'
            except Exception as error:
                outcome = 'failed'
                failures.append(
                    dict(
                        input=number,
                        change=f'{path} {action}',
                        error=f'{type(error).__name__}: {error}'[:300],
                    )
                )
            outcomes[leaf.name][outcome] += 1
            if progress and number % 100 == 99:
                kept = dict(inputs=number + 1, outcomes=outcomes, failures=failures)
                progress.write_text(json.dumps(kept), encoding='utf-8')
    return dict(inputs=inputs, seed=seed, outcomes=outcomes, failures=failures)


def main() -> int:
    def run(args: argparse.Namespace) -> dict:
        progress = args.out and args.out.with_suffix('.part.json')
        return fuzz(args.inputs, args.seed, progress)

    return command_line('tests.fuzz_configs', __doc__, 10_000, run)


if __name__ == '__main__':
    sys.exit(main())
