"""`--cfg-options`: MMEngine's rules, blanks in paths, and reading back what is printed."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import DictAction

from cbam_det.utils.errors import InputError
from cbam_det.utils.options import cfg_options, parse_options


@pytest.mark.parametrize(
    'value',
    [
        *('1', '0.5', '1e-3', 'True', 'false', 'None', '', 'a', "'a'", '"1"', 'layer[234].*.bn3'),
        *('1,2,3', 'a,', '[a, b, c]', '(1,)', '[]', '()', '[(1, 2, 3), [a, b], c]', '["a", "b"]'),
        *('/data/a', 'torchvision://resnet50', '"[1, 2]"', 'a=b'),
    ],
)
def test_values_without_blanks_are_read_as_mmengine_reads_them(value):
    assert parse_options([f'key={value}']) == {'key': DictAction._parse_iterable(value)}


@pytest.mark.parametrize(
    ('value', 'read'),
    [
        ('My Drive/signs (copy)/a.json', 'My Drive/signs (copy)/a.json'),
        ('"My Drive/x"', 'My Drive/x'),
        ("'/data/a, b/x'", '/data/a, b/x'),
        ('[My Drive/x, a  b]', ['My Drive/x', 'a  b']),
        ('(copy)/x(1)', '(copy)/x(1)'),
        ('(8,11),(16,)', [(8, 11), (16,)]),  # MMEngine recurses endlessly here
    ],
)
def test_blanks_and_brackets_inside_a_value_stay(value, read):
    assert parse_options([f'key={value}']) == {'key': read}


@given(st.text('abc .,;()[]{}$"\\*=~#', max_size=12).map('/'.__add__))
@settings(deadline=None, database=None, derandomize=True)
def test_a_printed_path_is_read_as_it_was_after_a_shell_split_it(path):
    flag, *pairs = shlex.split(cfg_options({'a.b': path, 'c': 3}))
    assert flag == '--cfg-options'
    assert parse_options(pairs) == {'a.b': path, 'c': 3}


def test_a_printed_list_is_read_as_it_was_without_quotes_inside_where_it_needs_none():
    values = {
        'a': ('avg', 'max'),
        'b': ['x'],
        'c': ('x',),
        'd': ('a b', 'c'),
        'e': [],
        'f': [1, 2],
    }
    _, *pairs = shlex.split(cfg_options(values))
    assert pairs[:3] == ['a=(avg,max)', 'b=[x]', 'c=(x,)']
    assert parse_options(pairs) == values


@pytest.mark.parametrize(
    ('pairs', 'message'),
    [
        (
            ['b=1', 'a=My', 'Drive/x', 'c=2'],
            "'Drive/x'; quote .*: --cfg-options b=1 'a=My Drive/x' c=2$",
        ),
        (['foo'], "not 'foo'; give KEY=VALUE$"),
        (['a=[1,2'], 'brackets do not match'),
    ],
)
def test_text_that_is_not_a_pair_is_named(pairs, message):
    with pytest.raises(InputError, match=message):
        parse_options(pairs)
