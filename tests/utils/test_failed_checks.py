"""A value that a library does not permit is named with its key path and the permitted ones."""

from __future__ import annotations

import pytest
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

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
    found = check_of(of_a_call)
    assert (found.text, found.permitted) == ('key in range(3)', ())
    # A message that blames a None of the config would be wrong.
    assert check_of(of_a_computed_value).permitted == ()


def test_error_of_another_line_has_no_check():
    def convert() -> int:
        return int('x')

    assert check_of(convert) is None
