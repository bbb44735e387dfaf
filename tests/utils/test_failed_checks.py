"""A value that a library does not permit is named with its key path and the permitted ones."""

from __future__ import annotations

import linecache
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from cbam_det.models.build import check_training_mode
from cbam_det.utils.build_errors import build_errors
from cbam_det.utils.errors import InputError
from cbam_det.utils.failed_checks import failed_check
from cbam_det.utils.runner_types import check_runner_keys

RESNET = dict(type='ResNet', depth=18, base_channels=16)
FPN = dict(type='FPN', in_channels=[16, 32], out_channels=8, num_outs=2)


def built(part: dict) -> str:
    """The error when a model of one part is built, '' if there is none."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        try:
            with build_errors(cfg := dict(model=dict(part=part)), 'model'):
                MODELS.build(cfg['model']['part'])
        except InputError as error:
            return str(error)
    return ''


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(RESNET, depth=19),
            'model.part.depth=19 is unknown; give one of 18, 34, 50, 101, 152',
        ),
        (
            dict(RESNET, depth=50, style='x'),
            "model.part.style='x' is unknown; give one of 'pytorch', 'caffe'",
        ),
        (
            dict(type='CSPNeXt', arch='P9'),
            "model.part.arch='P9' is unknown; give one of 'P5', 'P6'",
        ),
        (
            dict(RESNET, num_stages=7),
            'model.part.num_stages=7 cannot be used: it must satisfy num_stages >= 1 and '
            'num_stages <= 4; ',
        ),
        (
            dict(FPN, add_extra_convs='x'),
            "model.part.add_extra_convs='x' is unknown; give one of 'on_input', 'on_lateral', "
            "'on_output'",
        ),
        (dict(FPN, num_outs=1), 'model.part.num_outs=1 cannot be used: it must satisfy num_outs'),
    ],
)
def test_refused_value_of_a_model_is_named_with_the_permitted_ones(part, message):
    assert built(part).startswith(message)
    assert built(RESNET) == built(FPN) == ''


@pytest.mark.parametrize(
    'base', [dict(type='ResNet'), dict(type='WithPlugins', base_type='ResNet')]
)
@pytest.mark.parametrize('frozen', [9, 'x', 0.5])
def test_frozen_stages_that_a_backbone_lacks_are_named_with_their_range(base, frozen):
    options = dict(depth=18, base_channels=16, plugins=[dict(cfg=dict(type='CBAM'))])
    if base['type'] == 'ResNet':
        del options['plugins']
    message = (
        f'model.part.frozen_stages={frozen!r} cannot be used; give a whole number from -1 (no s'
    )
    assert built(dict(base, **options, frozen_stages=frozen)).startswith(message)
    assert built(dict(base, **options, frozen_stages=4)) == ''


def test_frozen_stages_that_are_used_only_in_training_are_checked_too():
    cfg = Config(dict(model=dict(backbone=dict(type='Darknet', depth=53, frozen_stages=9))))
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone)))
    with pytest.raises(InputError, match=r'^model\.backbone\.frozen_stages=9 .* to 6$'):
        check_training_mode(cfg, detector)


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(type='WithPlugins', depth=18),
            'model.part has no base_type, which WithPlugins needs; give model.part.base_type (a '
            'string)',
        ),
        (dict(type='ResNet'), 'model.part has no depth, which ResNet needs; give model.part.depth'),
        (
            dict(type='WithPlugins', base_type='FPN', in_channels=[16]),
            'model.part has no out_channels, num_outs, which FPN needs; give '
            'model.part.out_channels, model.part.num_outs (a whole number; a whole number)',
        ),
    ],
)
def test_option_that_a_class_needs_is_named_with_its_key(part, message):
    assert built(part) == message


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(type='SGD', lr=-1),
            'lr=-1 cannot be used: Invalid learning rate: -1; it must satisfy lr',
        ),
        (
            dict(type='SGD', lr=1, momentum=-1),
            'momentum=-1 cannot be used: Invalid momentum value: -1',
        ),
        (
            dict(type='AdamW', betas=(2, 0.9)),
            'betas=(2, 0.9) cannot be used: Invalid beta parameter at index 0: 2; it must satisfy '
            '0.0 <= betas[0] < 1.0',
        ),
        (
            dict(type='Adam', eps=-1),
            'eps=-1 cannot be used: Invalid epsilon value: -1; it must sat',
        ),
        (dict(type='RMSprop', alpha='x'), "alpha='x' is a string; give a number"),
        (dict(type='Adadelta', rho=2), 'rho=2 cannot be used: Invalid rho value: 2; it must satis'),
        (
            dict(type='Rprop', etas=(2, 1)),
            'etas=(2, 1) cannot be used: Invalid eta values: 2, 1; it',
        ),
        (
            dict(type='SGD', lr=1, nesterov=True),
            'momentum',
        ),
    ],
)
def test_value_that_an_optimizer_refuses_is_named_with_its_key(options, message):
    cfg = dict(optim_wrapper=dict(type='OptimWrapper', optimizer=options))
    model = nn.Linear(1, 1)
    with pytest.raises(InputError) as caught, build_errors(cfg, 'optim_wrapper'):
        build_optim_wrapper(model, Config(cfg).optim_wrapper)
    assert str(caught.value).startswith('optim_wrapper.optimizer')
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ('option', 'value', 'words'),
    [
        ('seed', 'x', "='x' is a string; give a whole number or None"),
        ('seed', 1.5, '=1.5 is a number'),
        ('seed', -1, '=-1 is not a seed; give a number from 0 to'),
        ('seed', 2**32, ' is not a seed'),
        ('deterministic', 'x', "='x' is a string; give True or False"),
    ],
)
def test_wrong_randomness_is_named_with_its_key(option, value, words):
    check_runner_keys(dict(randomness=dict(seed=2**32 - 1, deterministic=True)))
    with pytest.raises(InputError, match=f'^randomness.{option}=?.*{words}'):
        check_runner_keys(dict(randomness={option: value}))


def check_of(function: object) -> object:
    with pytest.raises(Exception) as caught:
        function()
    return failed_check(caught.value)


def test_values_are_read_from_the_failed_line():
    table, names = {'a': 1, 'b': 2}, ['x', 'y']

    def look_up(key: str = 'c') -> int:
        return table[key]

    def raise_in_if(key: str = 'z') -> None:
        if key not in names:
            raise ValueError('unknown')

    def raise_in_else(key: int = 7) -> None:
        if key < 3:
            pass
        else:
            raise ValueError('too large')

    def compare_types(key: str = 'x') -> None:
        if key < 3:
            raise ValueError('too small')

    def unhashable(key: tuple = ([],)) -> int:
        return table[key]

    def of_a_call(key: int = 7) -> None:
        assert key in range(3)

    def of_a_computed_value(names: tuple = ()) -> None:
        assert len(names) in (1, 2)

    found = check_of(look_up)
    assert (found.value, found.permitted, found.text) == ('c', ('a', 'b'), '')
    found = check_of(raise_in_if)
    assert (found.value, found.permitted) == ('z', ('x', 'y'))
    assert check_of(unhashable) is None
    assert found.text == 'key in names'
    assert check_of(raise_in_else).text == 'key < 3'
    assert check_of(compare_types).names == {'key'}
    found = check_of(of_a_call)
    assert (found.text, found.permitted) == ('key in range(3)', ())
    # A message that blames a None of the config would be wrong.
    assert check_of(of_a_computed_value).permitted == ()


def test_error_of_another_line_has_no_check():
    def convert() -> int:
        return int('x')

    assert check_of(convert) is None


def error_of(module: Path, source: str, value: object) -> Exception:
    """The error of `check(value)` in a module with this source."""
    module.write_text(source)
    names: dict = {}
    exec(compile(source, str(module), 'exec'), names)
    try:
        names['check'](value)
    except Exception as error:
        return error
    raise AssertionError('the check passed')


@pytest.mark.parametrize(
    ('condition', 'value'),
    [
        ('x in {[]: 1}', 3),
        ('any(x == known for known in allowed) or x in allowed', np.zeros(2)),
    ],
)
def test_check_that_cannot_be_evaluated_again_hides_no_error(condition, value, tmp_path):
    source = f'import numpy\nallowed = [numpy.ones(2)]\ndef check(x):\n    assert {condition}\n'
    check = failed_check(error_of(tmp_path / 'check.py', source, value))
    assert check is None or check.permitted == ()


def test_source_that_was_changed_since_the_import_hides_no_error(tmp_path):
    module = tmp_path / 'check.py'
    error = error_of(module, 'def check(x):\n    assert x in (1, 2)\n', 3)
    module.write_text('def check(x):\n    assert (((\n')
    linecache.checkcache()
    assert failed_check(error) is None
