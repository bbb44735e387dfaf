"""Converted weights give the same outputs as before."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cbam_det import CBAM
from cbam_det.checkpoints.convert import convert, detect_format
from cbam_det.checkpoints.formats import DEFAULTS, FACTORS, FORMATS
from cbam_det.models import layers

from .other_implementations import (
    MODULES,
    NEEDED,
    Authors,
    build,
    equal,
    error,
    randomised,
    stages,
)
from .starts import to_identity, to_paper


def signature(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters


@pytest.mark.parametrize(
    ('source', 'depth', 'layout'),
    [
        *((source, 18, 'inserted') for source in FORMATS),
        *(('authors', 50, 'plugins'), ('pytorchcv', 50, 'inserted'), ('timm', 50, 'inserted')),
    ],
)
def test_features_of_a_network_are_those_of_the_other_implementation(source, depth, layout, theirs):
    net = theirs(source, depth)
    state = net.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    assert detect_format(state) == source
    converted = convert(state, layout=layout, drop_classifier=True)
    assert equal(state, before)
    assert converted.options == [dict(type='CBAM', **NEEDED[source])]
    ours = build(depth, NEEDED[source], layout)
    ours.load_state_dict(converted.state, strict=True)
    ours.eval()
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        image = torch.randn(2, 3, 64, 96, dtype=dtype)
        with torch.no_grad():
            levels = ours.to(dtype)(image)
        for level, expected in zip(levels, stages(net.to(dtype), image), strict=True):
            assert error(level, expected) < bound
    net.float()


@pytest.mark.parametrize('source', FORMATS)
def test_a_module_alone_computes_what_the_other_implementation_does(source):
    net = randomised(MODULES[source]()).double()
    x = torch.randn(2, 24 if source == 'timm' else 48, 9, 11, dtype=torch.float64)
    converted = convert(net.state_dict())
    (options,) = converted.options
    ours = CBAM(x.shape[1], **{key: value for key, value in options.items() if key != 'type'})
    ours.double().load_state_dict(converted.state, strict=True)
    with torch.no_grad():
        assert error(ours.eval()(x), net(x)) < 1e-12
        torch.testing.assert_close(ours.train()(x), net.train()(x), rtol=1e-12, atol=1e-12)
    new = convert(net.state_dict()).state
    for key, value in ours.state_dict().items():  # includes the statistics of the norm
        torch.testing.assert_close(value, new[key], rtol=1e-12, atol=1e-12)


def test_options_that_the_weights_need_are_worked_out_from_their_shapes():
    ratios = {'authors': 8, 'pytorchcv': 8, 'timm': 12, 'mmyolo': 5, 'tutorial': None}
    for source, ratio in ratios.items():
        (options,) = convert(MODULES[source]().state_dict()).options
        small = dict(kernel_size=3) if source in ('timm', 'mmyolo') else {}
        rest = {key: value for key, value in options.items() if key not in ('type', 'ratio')}
        assert rest == NEEDED[source] | small and options.get('ratio') == ratio
    kinds = (layers.CBAM, CBAM)  # the second adds mmcv's options
    defaults = {
        name: parameter.default for kind in kinds for name, parameter in signature(kind).items()
    }
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize('source', FORMATS)
def test_every_key_is_reported_and_half_precision_is_kept(source, theirs):
    def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}

    state = theirs(source).state_dict()
    converted = convert(state)
    assert equal(convert(halved(state)).state, halved(converted.state))
    assert {row[0] for row in converted.rows} == state.keys()
    counts = Counter(kind for row in converted.rows for kind in row[2])
    assert counts['mapped'] + counts['kept'] == len(state) == len(converted.state)
    convolutions = source not in ('authors', 'pytorchcv')
    assert (counts['flipped'], counts['reshaped']) == (8 * convolutions, 16 * convolutions)


def test_weights_that_the_authors_script_saves_are_read(theirs):
    state = theirs('authors').state_dict()
    saved = {f'module.{key}': value for key, value in state.items()}  # of DataParallel
    assert equal(convert(saved).state, convert(state).state)


def test_both_versions_of_the_tutorial_s_names_are_read(theirs):
    state = theirs('tutorial').state_dict()
    newer = {
        key.replace('ca.fc1', 'ca.fc.0').replace('ca.fc2', 'ca.fc.2'): state[key] for key in state
    }
    assert newer.keys() != state.keys()
    assert equal(convert(newer).state, convert(state).state)


def test_weights_from_before_torch_counted_batches_load(theirs):
    state = {k: v for k, v in theirs('authors').state_dict().items() if 'num_batches' not in k}
    build(18, NEEDED['authors']).load_state_dict(
        convert(state, drop_classifier=True).state, strict=True
    )


@pytest.mark.parametrize('order', FACTORS)
@pytest.mark.parametrize('layout', ['inserted', 'plugins'])
def test_starts_convert_into_each_other_with_bitwise_equal_outputs(order, layout):
    for pools in (
        {},
        dict(pools=['lp', 'max'], spatial_pools=['lp', 'avg']),
        dict(spatial_pools='conv'),
    ):
        options = dict(order=order, **pools)
        depth = 50 if layout == 'plugins' else 18
        nets = {
            start: build(depth, dict(start=start, ratio=4, **options), layout, base_channels=8)
            for start in ('paper', 'identity')
        }
        gain = {key: value for key, value in nets['identity'].state_dict().items() if 'gain' in key}
        randomised(nets['identity']).load_state_dict(gain, strict=False)
        identity = nets['identity'].state_dict()
        paper = to_paper(identity, options)
        assert paper.options[0]['start'] == 'paper'
        assert {row[0] for row in paper.rows if row[0]} == identity.keys()
        nets['paper'].load_state_dict(paper.state, strict=True)
        nets['paper'].eval()
        image = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            outputs = nets['identity'](image), nets['paper'](image)
        for level_pair in zip(*outputs, strict=True):
            assert level_pair[0].std() > 0 and torch.equal(*level_pair)
        again = to_identity(paper.state, options)
        assert equal(again.state, identity)
        assert 'start' not in again.options[0]
        assert {row[1] for row in again.rows} == identity.keys()
        # In a detector the other weights do not change.
        rest = {
            'neck.lateral_convs.0.conv.weight': torch.ones(1),
            'rpn_head.rpn_cls.bias': torch.ones(2),
        }
        detector = {**{f'backbone.{key}': value for key, value in identity.items()}, **rest}
        expected = {**{f'backbone.{key}': value for key, value in paper.state.items()}, **rest}
        assert equal(to_paper(detector, options).state, expected)


def test_layouts_convert_into_each_other_also_in_a_detector():
    inserted = randomised(build(50, {}, 'inserted', base_channels=16)).state_dict()
    plugins = build(50, {}, 'plugins', base_channels=16)
    converted = convert(inserted, layout='plugins')
    plugins.load_state_dict(converted.state, strict=True)
    assert equal(convert(converted.state, layout='inserted').state, inserted)
    rest = {'neck.inserted.fpn_convs/0.cbam.channel_gate.fc1.weight': torch.ones(1, 16)}
    detector = {**{f'backbone.{key}': value for key, value in inserted.items()}, **rest}
    converted = convert(detector, layout='plugins')
    expected = {f'backbone.{key}': value for key, value in plugins.state_dict().items()}
    assert equal(converted.state, expected | rest)
    assert equal(convert(converted.state, layout='inserted').state, detector)


def test_weights_of_others_convert_to_the_identity_start_in_one_call(theirs):
    state = theirs('authors').state_dict()
    converted = convert(state, start='identity')
    assert converted.options == [dict(type='CBAM')]
    assert equal(converted.state, to_identity(convert(state).state, {}).state)


@pytest.mark.parametrize(
    ('pools', 'no_spatial'),
    [(('avg', 'max'), True), (('avg', 'max', 'lp', 'lse'), False), (('lse',), True)],
)
def test_options_of_the_authors_module_are_read_and_assumptions_are_reported(pools, no_spatial):
    net = randomised(Authors(48, 8, pools, no_spatial)).double()
    converted = convert(net.state_dict())
    assert any(
        "pool_types=['avg', 'max'], the authors' default" in note for note in converted.notes
    )
    (cfg,) = converted.options
    assert cfg.get('order', 'channel-spatial') == ('channel' if no_spatial else 'channel-spatial')
    options = {key: value for key, value in cfg.items() if key != 'type'} | dict(pools=pools)
    ours = CBAM(48, **options).double().eval()
    ours.load_state_dict(converted.state, strict=True)
    x = torch.randn(2, 48, 9, 11, dtype=torch.float64)
    assert error(ours(x), net(x)) < 1e-12


def test_authors_network_without_spatial_gates_converts_to_the_identity_start(theirs):
    state = {
        key: value
        for key, value in theirs('authors').state_dict().items()
        if 'SpatialGate' not in key
    }
    converted = convert(state, start='identity', drop_classifier=True)
    assert converted.options == [dict(type='CBAM', order='channel')]
    build(18, dict(order='channel')).load_state_dict(converted.state, strict=True)
