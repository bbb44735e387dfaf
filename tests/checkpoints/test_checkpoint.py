"""Converted weights compute what they did before, and what cannot be converted is refused."""

from __future__ import annotations

import inspect
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import timm
import torch
import torchvision
from mmcv.cnn import ConvModule
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope
from pytorchcv.models import cbamresnet
from torch import Tensor, nn

from cbam_det import CBAM
from cbam_det.checkpoints.convert import convert, detect, to_identity, to_paper
from cbam_det.checkpoints.files import WEIGHTS_ONLY, read_file
from cbam_det.checkpoints.formats import DEFAULTS, FACTORS, FORMS, OURS, TARGETS
from cbam_det.models import layers
from cbam_det.utils.errors import InputError

from ..conftest import in_process

NEEDED = {  # what our config needs for the weights of each form
    'authors': dict(start='paper'),
    'pytorchcv': dict(start='paper', norm_cfg=dict(type='BN')),
    'timm': dict(start='paper', norm_cfg=dict(type='BN'), mlp_bias=False),
    'mmyolo': dict(start='paper', norm_cfg=None, conv_bias=True),
    'tutorial': dict(start='paper', norm_cfg=None, mlp_bias=False),
}


def signature(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters


class Authors(nn.Module):
    """Jongchan/attention-module: maximum before mean, a norm, an MLP of linear layers."""

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        layers = nn.Linear(channels, channels // ratio), nn.ReLU()
        self.ChannelGate, self.SpatialGate = nn.Module(), nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), *layers, nn.Linear(channels // ratio, channels)
        )
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.SpatialGate.spatial.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        mlp, spatial = self.ChannelGate.mlp, self.SpatialGate.spatial
        logits = mlp(nn.functional.avg_pool2d(x, x.shape[2:]))
        logits = logits + mlp(nn.functional.max_pool2d(x, x.shape[2:]))
        x = x * torch.sigmoid(logits)[:, :, None, None]
        maps = torch.cat([x.max(1)[0][:, None], x.mean(1)[:, None]], 1)
        return x * torch.sigmoid(spatial.bn(spatial.conv(maps)))


class MMYolo(nn.Module):
    """mmyolo: mean before maximum, no norm, biases everywhere, mmcv's ConvModules."""

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = channels // ratio
        self.channel_attention, self.spatial_attention = nn.Module(), nn.Module()
        self.channel_attention.fc = nn.Sequential(
            ConvModule(channels, hidden, 1), ConvModule(hidden, channels, 1, act_cfg=None)
        )
        self.spatial_attention.conv = ConvModule(
            2, 1, kernel_size, padding=kernel_size // 2, act_cfg=dict(type='Sigmoid')
        )

    def forward(self, x: Tensor) -> Tensor:
        fc = self.channel_attention.fc
        x = x * torch.sigmoid(fc(x.mean((2, 3), keepdim=True)) + fc(x.amax((2, 3), keepdim=True)))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.spatial_attention.conv(maps)


class Tutorial(nn.Module):
    """luuuyi/CBAM.PyTorch: mean before maximum, no norm, no bias; its first names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca, self.sa = nn.Module(), nn.Module()
        self.ca.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.ca.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)
        self.sa.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(sum(self.ca.fc2(torch.relu(self.ca.fc1(each))) for each in pooled))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.sa.conv1(maps))


def with_cbam(depth: int, module: Callable[[int], nn.Module]) -> nn.Module:
    """torchvision's ResNet with a CBAM before every addition, under the name that it has there."""
    net = getattr(torchvision.models, f'resnet{depth}')()
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            norm = block.bn3 if hasattr(block, 'bn3') else block.bn2
            cbam = module(norm.num_features)
            norm.register_forward_hook(lambda norm, args, output, cbam=cbam: cbam(output))
            if module is Tutorial:
                block.ca, block.sa = cbam.ca, cbam.sa
            else:
                block.cbam = cbam
    return net


def small_images(net: nn.Module) -> nn.Module:
    """pytorchcv's network pools 7x7 at its end, which a small image does not have there."""
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return net


MAKERS: dict[str, Callable[[int], nn.Module]] = {
    'authors': lambda depth: with_cbam(depth, Authors),
    'pytorchcv': lambda depth: small_images(getattr(cbamresnet, f'cbam_resnet{depth}')()),
    'timm': lambda depth: timm.create_model(
        f'resnet{depth}', block_args=dict(attn_layer='cbam'), zero_init_last=False
    ),
    'mmyolo': lambda depth: with_cbam(depth, MMYolo),
    'tutorial': lambda depth: with_cbam(depth, Tutorial),
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    'authors': lambda: Authors(48, ratio=8),
    'pytorchcv': lambda: cbamresnet.CbamBlock(48, 8),
    'timm': lambda: timm.layers.cbam.CbamModule(24, spatial_kernel_size=3),  # 1.5 hidden ones: 2
    'mmyolo': lambda: MMYolo(48, ratio=5, kernel_size=3),
    'tutorial': lambda: Tutorial(48),
}


def randomised(net: nn.Module) -> nn.Module:
    """Every parameter and buffer at random, of sizes at which the gates are not saturated."""
    for name, value in net.state_dict().items():
        if name.endswith('num_batches_tracked'):
            value.random_(1, 1000)
        elif name.endswith('running_var'):
            value.uniform_(2, 6)
        elif value.dim() == 1:
            value.uniform_(*((0.5, 1.5) if name.endswith('weight') else (-0.3, 0.3)))
        elif value.dim() > 1:
            value.normal_(std=value[0].numel() ** -0.5)
    net.eval()  # mmdet's returns nothing
    return net


def build(depth: int, options: dict, layout: str = 'inserted', **host: object) -> nn.Module:
    last = 3 if depth > 34 else 2
    cfg = dict(type='CBAM', **options)
    entry = dict(cfg=cfg, after=f'layer*.*.bn{last}')
    if layout == 'plugins':
        entry = dict(cfg=cfg, stages=(True,) * 4, position='after_conv3')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(type='WithPlugins', base_type='ResNet', depth=depth, plugins=[entry], **host)
        )


def stages(net: nn.Module, image: Tensor) -> list[Tensor]:
    """What the four stages of a ResNet of any kind return."""
    seen: list[Tensor] = []
    parts = [
        getattr(net, f'layer{i}', None) or getattr(net.features, f'stage{i}') for i in range(1, 5)
    ]
    hooks = [
        part.register_forward_hook(lambda module, args, output: seen.append(output))
        for part in parts
    ]
    with torch.no_grad():
        net(image)
    for hook in hooks:
        hook.remove()
    return seen


def error(given: Tensor, expected: Tensor) -> float:
    assert given.shape == expected.shape
    return ((given - expected).abs().max() / expected.abs().max()).item()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


@pytest.fixture(scope='module')
def theirs() -> Callable[[str, int], nn.Module]:
    made: dict[tuple[str, int], nn.Module] = {}

    def get(form: str, depth: int = 18) -> nn.Module:
        if (form, depth) not in made:
            made[form, depth] = randomised(MAKERS[form](depth))
        return made[form, depth]

    return get


def ours_of(form: str, theirs: Callable, **options: object) -> dict[str, Tensor]:
    return convert(theirs(form).state_dict(), drop_classifier=True, **options).state


@pytest.mark.parametrize(
    ('form', 'depth', 'layout'),
    [
        *((form, 18, 'inserted') for form in FORMS),
        *(('authors', 50, 'plugins'), ('pytorchcv', 50, 'inserted'), ('timm', 50, 'inserted')),
    ],
)
def test_features_of_a_network_are_those_of_the_other_implementation(form, depth, layout, theirs):
    net = theirs(form, depth)
    state = net.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    assert detect(state) == form
    done = convert(state, layout=layout, drop_classifier=True)
    assert equal(state, before)
    assert done.options == [dict(type='CBAM', **NEEDED[form])]
    mine = build(depth, NEEDED[form], layout)
    mine.load_state_dict(done.state, strict=True)
    mine.eval()
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        image = torch.randn(2, 3, 64, 96, dtype=dtype)
        with torch.no_grad():
            given = mine.to(dtype)(image)
        for level, expected in zip(given, stages(net.to(dtype), image), strict=True):
            assert error(level, expected) < bound
    net.float()


@pytest.mark.parametrize('form', FORMS)
def test_a_module_alone_computes_what_the_other_implementation_does(form):
    net = randomised(MODULES[form]()).double()
    x = torch.randn(2, 24 if form == 'timm' else 48, 9, 11, dtype=torch.float64)
    done = convert(net.state_dict())
    (options,) = done.options
    mine = CBAM(x.shape[1], **{key: value for key, value in options.items() if key != 'type'})
    mine.double().load_state_dict(done.state, strict=True)
    with torch.no_grad():
        assert error(mine.eval()(x), net(x)) < 1e-12
        torch.testing.assert_close(mine.train()(x), net.train()(x), rtol=1e-12, atol=1e-12)
    new = convert(net.state_dict()).state
    for key, value in mine.state_dict().items():  # the statistics of the norm too
        torch.testing.assert_close(value, new[key], rtol=1e-12, atol=1e-12)


def test_options_that_the_weights_need_are_worked_out_from_their_shapes():
    ratios = {'authors': 8, 'pytorchcv': 8, 'timm': 12, 'mmyolo': 5, 'tutorial': None}
    for form, ratio in ratios.items():
        (options,) = convert(MODULES[form]().state_dict()).options
        small = dict(kernel_size=3) if form in ('timm', 'mmyolo') else {}
        rest = {key: value for key, value in options.items() if key not in ('type', 'ratio')}
        assert rest == NEEDED[form] | small and options.get('ratio') == ratio
    kinds = (layers.CBAM, CBAM)  # mmcv's options are of the second
    known = {name: one.default for kind in kinds for name, one in signature(kind).items()}
    assert {name: known[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize('form', [form for form in TARGETS if form != OURS])
def test_round_trips_return_every_bit_and_dtype(form, theirs):
    for dtype in (torch.float32, torch.float16):
        state = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in theirs(form).state_dict().items()
        }
        mine = convert(state)
        back = convert(mine.state, target=form)
        named = {key.removeprefix('module.'): value for key, value in back.state.items()}
        assert equal(named, state)
        assert equal(convert(back.state).state, mine.state)
        counts = Counter(kind for row in mine.rows for kind in row[2])
        assert counts['mapped'] + counts['kept'] == len(state)
        assert counts['flipped'] == (0 if form == 'authors' else 8)
        assert counts['reshaped'] == (0 if form == 'authors' else 16)
    module = MODULES[form]().state_dict()
    assert equal(convert(convert(module).state, target=form).state, module)


def test_weights_of_the_authors_are_written_as_their_script_saves_them(theirs):
    state = {f'module.{key}': value for key, value in theirs('authors').state_dict().items()}
    assert equal(convert(convert(state).state, target='authors').state, state)


def test_weights_of_a_zoo_go_on_in_the_authors_code(theirs):
    zoo = theirs('pytorchcv')
    state = {
        key.removeprefix('module.'): value
        for key, value in convert(zoo.state_dict(), target='authors').state.items()
    }
    net = MAKERS['authors'](18)
    net.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 64, 64)
    for level, expected in zip(stages(net.eval(), image), stages(zoo, image), strict=True):
        assert error(level, expected) < 1e-5


@pytest.mark.parametrize('form', [form for form in FORMS if form not in TARGETS])
def test_form_that_nobody_deploys_is_read_and_not_written(form, theirs):
    mine = convert(theirs(form).state_dict()).state
    with pytest.raises(InputError, match=f'{form} is read and not written; write one of cbam_det'):
        convert(mine, target=form)


def test_second_names_of_the_tutorial_are_read_too(theirs):
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
def test_starts_turn_into_each_other_without_a_changed_bit(order, layout):
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
        for one, other in zip(*outputs, strict=True):
            assert one.std() > 0 and torch.equal(one, other)
        again = to_identity(paper.state, options)
        assert equal(again.state, identity)
        assert 'start' not in again.options[0]
        assert {row[1] for row in again.rows} == identity.keys()
        # In a detector the rest stays as it is.
        rest = {
            'neck.lateral_convs.0.conv.weight': torch.ones(1),
            'rpn_head.rpn_cls.bias': torch.ones(2),
        }
        detector = {**{f'backbone.{key}': value for key, value in identity.items()}, **rest}
        expected = {**{f'backbone.{key}': value for key, value in paper.state.items()}, **rest}
        assert equal(to_paper(detector, options).state, expected)


def test_layouts_turn_into_each_other_also_in_a_detector():
    inserted = randomised(build(50, {}, 'inserted', base_channels=16)).state_dict()
    plugins = build(50, {}, 'plugins', base_channels=16)
    done = convert(inserted, layout='plugins')
    plugins.load_state_dict(done.state, strict=True)
    assert equal(convert(done.state, layout='inserted').state, inserted)
    rest = {'neck.inserted.fpn_convs/0.cbam.channel_gate.fc1.weight': torch.ones(1, 16)}
    detector = {**{f'backbone.{key}': value for key, value in inserted.items()}, **rest}
    done = convert(detector, layout='plugins')
    expected = {f'backbone.{key}': value for key, value in plugins.state_dict().items()}
    assert equal(done.state, expected | rest)
    assert equal(convert(done.state, layout='inserted').state, detector)


def test_backbone_of_a_detector_becomes_another_implementation_s(theirs):
    net = theirs('timm')
    state = {f'backbone.{key}': value for key, value in ours_of('timm', theirs).items()}
    done = convert({**state, 'neck.weight': torch.ones(1)}, target='timm')
    assert ('neck.weight', '', ('dropped',)) in done.rows
    assert any('taken for granted' in note for note in done.notes)
    mine = MAKERS['timm'](18)
    missing, unexpected = mine.load_state_dict(done.state, strict=False)
    assert missing == ['fc.weight', 'fc.bias'] and not unexpected
    image = torch.randn(1, 3, 64, 64)
    for level, expected in zip(stages(mine.eval(), image), stages(net, image), strict=True):
        assert error(level, expected) < 1e-5


def test_weights_of_others_start_as_the_identity_does_by_one_call(theirs):
    state = theirs('authors').state_dict()
    done = convert(state, start='identity')
    assert done.options == [dict(type='CBAM')]
    assert equal(done.state, to_identity(convert(state).state, {}).state)
    assert equal(
        convert(done.state, target='authors', start='paper').state,
        {f'module.{key}': value for key, value in state.items()},
    )


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def changed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): value for key, value in state.items()}


def test_what_the_weights_do_not_explain_is_refused(theirs):
    authors, timms = theirs('authors').state_dict(), theirs('timm').state_dict()
    mine = convert(authors).state
    one = torch.ones(1)
    for message, state, options in (
        ('bam1.x: unexplained in the form authors', {**authors, 'bam1.x': one}, {}),
        ('no CBAM of any form', theirs('authors').fc.state_dict(), {}),
        ('several forms, authors, timm', authors | timms, {}),
        (r'no CBAM in layer2\.0, and', without(authors, 'layer2.0.cbam'), {}),
        (r'no CBAM in layer2\.1, and', without(mine, 'layer2/1'), dict(target='authors')),
        (
            r'missing .*layer2\.0\.cbam\.channel_gate\.fc2\.bias',
            without(authors, '2.0.cbam.ChannelGate.mlp.3.bias'),
            {},
        ),
        (r'missing .*layer3\.1\.conv1\.weight', without(authors, 'layer3.1.conv1'), {}),
        (r'no CBAM in layer4\.0', without(timms, 'layer4'), {}),
        ('does not read 2 maps', timm_light(), {}),
        ("form 'mine' is unknown", authors, dict(target='mine')),
        ('unexplained in the form timm', authors, dict(source='timm')),
        ('nothing to do', authors, dict(target='authors')),
        ('nothing to do', mine, dict(layout='inserted')),
        (
            'several keys become',
            {**mine, 'layer1.0.cbam.spatial_gate.conv.weight': one},
            dict(layout='inserted'),
        ),
        ('no plugins= in BasicBlocks', mine, dict(layout='plugins')),
        ("layout 'mine' is unknown", mine, dict(layout='mine')),
        ('x: no tensor', {**mine, 'x': 1}, {}),
        ('is not for the form authors', authors, dict(options=dict(order='channel'))),
        ("layout='plugins' is not for the form timm", mine, dict(target='timm', layout='plugins')),
        ("start='paper' is not for", authors, dict(target='timm', start='paper')),
    ):
        with pytest.raises(InputError, match=message):
            convert(state, **options)


def timm_light() -> dict[str, Tensor]:
    return timm.create_model('resnet18', block_args=dict(attn_layer='lcbam')).state_dict()


@pytest.mark.parametrize(
    ('options', 'form', 'message'),
    [
        (dict(), 'timm', 'no biases in its MLP'),
        (dict(mlp_bias=False), 'authors', 'missing .*fc1.bias'),
        (dict(), 'mmyolo', 'no norm in its spatial gate'),
        (dict(mlp_bias=False, norm_cfg=None), 'timm', 'missing .*spatial_gate.norm'),
        (dict(mlp_bias=False, conv_bias=True), 'timm', "no bias in the spatial gate's convolution"),
        (dict(start='identity'), 'authors', "no identity start; convert with start='paper'"),
        (dict(spatial_pools='conv'), 'authors', "spatial_pools='conv'"),
        (dict(kernel_size=3), 'authors', 'kernel_size=3; the form authors has 7 alone'),
        (dict(order='parallel'), 'authors', "order='parallel': the form authors"),
        (dict(order='channel'), 'authors', "order='channel': the form authors"),
        (dict(pools=['max']), 'authors', 'pools=.* avg and max alone'),
    ],
)
def test_what_a_form_cannot_express_is_refused_with_the_reason(options, form, message):
    options = dict(start='paper') | options
    for state in (
        CBAM(16, **options).state_dict(),
        build(18, options, base_channels=16).state_dict(),
    ):
        with pytest.raises(InputError, match=message):
            convert(state, target=form, options=options)


def test_order_of_the_spatial_pools_decides_what_is_flipped():
    for pools in (['avg', 'max'], ['max', 'avg']):
        cbam = randomised(CBAM(16, spatial_pools=pools, start='paper')).double()
        other = Authors(16).double().eval()
        other.load_state_dict(
            convert(cbam.state_dict(), target='authors', options=dict(spatial_pools=pools)).state
        )
        x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
        assert error(other(x), cbam(x)) < 1e-12


def test_a_start_that_cannot_be_converted_is_refused_with_the_reason():
    def net(after: str = 'layer*.*.bn2', **options: object) -> dict[str, Tensor]:
        cfg = dict(type='WithPlugins', base_type='ResNet', depth=18, base_channels=16)
        entry = dict(cfg=dict(type='CBAM', start='identity', **options), after=after)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(dict(cfg, plugins=[entry])).state_dict()

    plain = net()
    half = {key: value.half() for key, value in plain.items()}
    half['layer1.0.bn2.weight'][0] = 6e4
    second = 'inserted.layer1/0/bn2.cbam1.channel_gate.fc1.weight'
    for message, state, options in (
        ("channel gate's pool 'lse'", net(pools=['avg', 'lse']), dict(pools=['avg', 'lse'])),
        ("spatial gate's pool 'lse'", net(spatial_pools='lse'), dict(spatial_pools='lse')),
        ('layer2 is no norm with weight and bias', net('layer2'), {}),
        ('layer1.0.conv2 is no norm', net('layer1.0.conv2'), {}),
        ('relu is no norm', net('relu'), {}),
        ('give the weights of the whole network', CBAM(16).state_dict(), {}),
        ("a channel gate, not order='channel-spatial'", net(order='channel'), {}),
        ("order='none' is unknown", plain, dict(order='none')),
        ('is of the paper form already', to_paper(plain, {}).state, {}),
        ('reads 2, which is not', plain, dict(spatial_pools='conv')),
        ('unknown beside', {**plain, second: torch.ones(1)}, {}),
        ('leaves the range of torch.float16', half, {}),
    ):
        with pytest.raises(InputError, match=message):
            to_paper(state, options)
    with pytest.raises(InputError, match='is of the identity form already'):
        to_identity(plain, {})


def test_a_cbam_at_another_position_of_a_block_is_told_by_its_channels():
    cfg = dict(type='CBAM', start='paper')
    entry = dict(cfg=cfg, stages=(True,) * 4, position='after_conv2')
    with DefaultScope.overwrite_default_scope('mmdet'):
        net = MODELS.build(dict(type='ResNet', depth=50, base_channels=16, plugins=[entry]))
    for change in (dict(layout='inserted'), dict(start='identity')):
        with pytest.raises(InputError, match=r'16 channels, and layer1\.0\.bn3\.weight has 64'):
            convert(net.state_dict(), **change)


@pytest.fixture
def tool(capsys) -> Callable[..., tuple[int, str]]:
    """The command line in this process: its exit status and all that it printed."""
    convert = in_process('convert_checkpoint')

    def call(*args: object) -> tuple[int, str]:
        status = convert(*args)
        return status, ''.join(capsys.readouterr())

    return call


def test_tool_converts_a_file_and_reports_every_key(tool, tmp_path, theirs):
    source, target = tmp_path / 'theirs.pth', tmp_path / 'ours.pth'
    torch.save({'state_dict': theirs('timm').state_dict(), 'epoch': 3, 'arch': 'r18'}, source)
    status, said = tool(source, target, '--drop-classifier', '--verbose')
    assert status == 0, said
    assert 'left out, OUT cannot resume a training: epoch, arch' in said
    assert (
        '8 CBAM, layer1.0.bn2 to layer4.1.bn2: '
        "dict(type='CBAM', norm_cfg=dict(type='BN'), start='paper', mlp_bias=False)"
    ) in said
    for row in ('dropped │ 2', 'flipped │ 8', 'reshaped │ 16', 'layer1.0.se.channel.fc1.weight'):
        assert row.replace(' ', '') in said.replace(' ', '')
    state, meta, rest = read_file(target)
    assert equal(state, ours_of('timm', theirs)) and (meta, rest) == ({}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ours.pth', 'theirs.pth']
    net = build(18, NEEDED['timm'], init_cfg=dict(type='Pretrained', checkpoint=str(target)))
    net.init_weights()
    assert equal(net.state_dict(), state)


def test_tool_turns_a_trained_detector_s_start_with_the_options_of_its_config(tool, tmp_path):
    cfg = dict(start='identity', order='parallel')
    state = randomised(build(50, cfg, 'plugins', base_channels=16)).state_dict()
    state = {f'backbone.{key}': value for key, value in state.items()}
    log = HistoryBuffer([1.0], [1])
    meta = dict(epoch=3, cfg='model = {}', dataset_meta=dict(classes=('a', 'b')), log=log)
    file, config = tmp_path / 'epoch_3.pth', tmp_path / 'config.py'
    rest = dict(message_hub=dict(log_scalars={'loss': log}), optimizer={}, ema_state_dict={})
    torch.save(dict(meta=meta, state_dict=state, **rest), file)
    plugins = [dict(cfg=dict(type='CBAM', **cfg), after='layer*.*.bn3')]
    config.write_text(f'model = dict(backbone=dict(plugins={plugins!r}))')
    status, said = tool(file, tmp_path / 'paper.pth', '--start', 'paper')
    assert status == 2 and 'give --config, or --order' in said
    assert not (tmp_path / 'paper.pth').exists()
    status, said = tool(file, tmp_path / 'paper.pth', '--start', 'paper', '--config', config)
    assert status == 0, said
    assert 'message_hub, optimizer, ema_state_dict' in said
    assert '16 CBAM, backbone.layer1.0.bn3 to backbone.layer4.2.bn3' in said
    got, kept, _ = read_file(tmp_path / 'paper.pth')
    assert equal(got, to_paper(state, cfg).state)
    assert kept == {key: meta[key] for key in ('epoch', 'cfg', 'dataset_meta')}
    config.write_text('model = dict(backbone=dict())')
    status, said = tool(file, tmp_path / 'b.pth', '--start', 'paper', '--config', config)
    assert status == 2 and 'the model has no CBAM' in said


def test_tool_overwrites_nothing_and_refuses_in_one_line(tool, tmp_path):
    state, broken = tmp_path / 'a.pth', tmp_path / 'broken.pth'
    torch.save(Authors(16).state_dict(), state, _use_new_zipfile_serialization=False)
    broken.write_bytes(b'not a checkpoint')
    torch.save({'optimizer': {}}, tmp_path / 'none.pth')
    for args, message in (
        ((state, state), 'a.pth exists; remove it or give another name'),
        ((state, tmp_path / 'no' / 'b.pth'), 'no folder'),
        ((tmp_path / 'c.pth', tmp_path / 'b.pth'), 'no checkpoint'),
        (
            (broken, tmp_path / 'b.pth'),
            'broken.pth cannot be loaded (it is no file of torch); fetch it again',
        ),
        ((tmp_path / 'none.pth', tmp_path / 'b.pth'), 'holds no weights, but optimizer'),
        ((state, tmp_path / 'b.pth', '--to', 'timm'), 'no biases in its MLP'),
    ):
        status, said = tool(*args)
        assert status == 2 and message in said and said.count('\n') == 1, said
    status, said = tool(state, tmp_path / 'b.pth')  # of the format of torch before 1.6
    assert status == 0 and "1 CBAM: dict(type='CBAM', start='paper')" in said


def test_options_saved_beside_the_weights_are_read_and_code_is_refused_unread(tmp_path):
    class Harm:
        def __reduce__(self) -> tuple:
            return (exec, ('raise SystemExit',))

    weights = dict(state_dict=Authors(16).state_dict())
    torch.save(weights | dict(args=Namespace(lr=0.1)), tmp_path / 'timm.pth')
    state, _, rest = read_file(tmp_path / 'timm.pth')
    assert rest == ['args'] and detect(state) == 'authors'
    torch.save(weights | dict(harm=Harm()), tmp_path / 'harm.pth')
    with pytest.raises(InputError, match='more than weights is pickled in it'):
        read_file(tmp_path / 'harm.pth')


def test_reading_a_checkpoint_leaves_the_program_s_own_reading_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv(WEIGHTS_ONLY, raising=False)
    torch.save(dict(state_dict=Authors(16).state_dict()), tmp_path / 'a.pth')
    read_file(tmp_path / 'a.pth')
    assert WEIGHTS_ONLY not in os.environ
    monkeypatch.setenv(WEIGHTS_ONLY, '0')
    read_file(tmp_path / 'a.pth')
    assert os.environ[WEIGHTS_ONLY] == '0'
