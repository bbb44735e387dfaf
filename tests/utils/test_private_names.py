"""Private names of torch, MMEngine and mmdet: where the package uses them, and that they exist."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.backbones import MobileNetV2
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import CheckpointHook
from mmengine.infer import BaseInferencer
from mmengine.optim import CosineAnnealingLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from cbam_det.utils import mmengine_private

from ..conftest import ROOT

PRIVATE = re.compile(r'_[A-Za-z]\w*(?<!__)')
MODULES = ('models/layers/torch_private.py', 'utils/mmengine_private.py')
ELSEWHERE = {  # `_exit` and `_replace` are public names of Python
    *('_exit', '_replace'),
    *('_resume', '_load_from', '_test_evaluator'),  # of Runner, in its subclass
}


def test_private_names_of_other_libraries_are_in_one_module_per_library():
    own, used = set(), {}
    for path in (ROOT / 'cbam_det').rglob('*.py'):
        if path.relative_to(ROOT / 'cbam_det').as_posix() in MODULES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Attribute):
                names = [node.attr]
                if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == 'self':
                    own.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [alias.name for alias in node.names]
            used |= {name: path.name for name in names if PRIVATE.fullmatch(name)}
    assert {name: path for name, path in used.items() if name not in own | ELSEWHERE} == {}


def runner(folder: str, **options: object) -> Runner:
    return Runner(
        nn.Linear(1, 1),
        folder,
        train_dataloader=DataLoader(range(2)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        experiment_name='private',
        **options,
    )


@pytest.mark.parametrize('resume', [True, False])
def test_state_of_a_runner_is_read(resume, tmp_path):
    run = runner(str(tmp_path), load_from='weights.pth', resume=resume)
    assert mmengine_private.is_resumed(run) == resume
    assert mmengine_private.loaded_checkpoint(run) == 'weights.pth'
    assert not mmengine_private.is_training(run)
    run.build_train_loop(run.train_loop)
    assert mmengine_private.is_training(run) and mmengine_private.has_epochs(run)
    run._train_loop = IterBasedTrainLoop(run, run.train_dataloader, max_iters=2)
    assert not mmengine_private.has_epochs(run)
    assert hasattr(run, '_test_evaluator')


def test_infinite_sampler_starts_again():
    sampler = InfiniteSampler(range(5), shuffle=False)
    assert list(islice(sampler, 2)) == [0, 1]
    mmengine_private.restart_indices(sampler)
    assert list(islice(sampler, 2)) == [0, 1]


def test_number_of_accumulated_iterations_is_read():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=3)
    assert mmengine_private.accumulated_iterations(wrapper) == 3
    assert mmengine_private.accumulated_iterations(SimpleNamespace()) == 1


def test_weights_of_data_parallel_are_loaded():
    source, target = nn.Linear(1, 1), nn.Linear(1, 1)
    state = {f'module.{key}': value for key, value in source.state_dict().items()}
    mmengine_private.load_weights(target, dict(state_dict=state))
    assert torch.equal(source.weight, target.weight)


@pytest.mark.parametrize(
    ('owner', 'name', 'parameters'),
    [
        (CheckpointHook, '_save_checkpoint_with_step', ['self', 'runner', 'step', 'meta']),
        (CheckpointHook, '_save_best_checkpoint', ['self', 'runner', 'metrics']),
        (BaseInferencer, '_init_collate', ['self', 'cfg']),
        (BaseInferencer, '_init_model', ['self', 'cfg', 'weights', 'device']),
        (MobileNetV2, '_freeze_stages', ['self']),
    ],
)
def test_overridden_private_methods_still_exist_and_are_called(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters
    assert f'self.{name}(' in inspect.getsource(owner)


@pytest.mark.parametrize(
    ('text', 'value'), [('0.5', 0.5), ('3', 3), ('True', True), ('None', None), ('a', 'a')]
)
def test_scalars_of_options_are_parsed(text, value):
    parsed = mmengine_private.parse_scalar(text)
    assert parsed == value and type(parsed) is type(value)


def test_base_class_of_schedules_exists():
    assert issubclass(CosineAnnealingLR, mmengine_private.ParamScheduler)
