"""Plugins at any named module: places, equality with the equations, and what hosts go through."""

from __future__ import annotations

import copy
import pickle

import onnxruntime
import pytest
import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import digit_version
from torch import nn

from cbam_det import CBAM
from cbam_det.models.insertion import find_channels, insert, match
from cbam_det.utils.errors import InputError

R18 = dict(type='ResNet', depth=18, base_channels=8)
BLOCKS = 'layer*.*.bn2'
FPN = dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=3)
SSD_NECK = dict(
    type='SSDNeck',
    in_channels=(8, 16),
    out_channels=(8, 16, 8, 8, 8, 8),
    level_strides=(2, 2, 1, 1),
    level_paddings=(1, 1, 0, 0),
)
ROI_LAYER = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
HOSTS = {
    'ResNet-18': (R18, BLOCKS, 8),
    'ResNeXt': (
        dict(type='ResNeXt', depth=50, groups=4, base_width=4, base_channels=8),
        'layer4.*.bn3',
        3,
    ),
    'ResNetV1d, a stage': (dict(type='ResNetV1d', depth=18, base_channels=8), 'layer3', 1),
    'Res2Net': (
        dict(type='Res2Net', depth=50, base_channels=8, scales=4, base_width=4),
        'layer1.*.bn3',
        3,
    ),
    'RegNet': (dict(type='RegNet', arch='regnetx_400mf'), 'layer2.*.bn3', 2),
    'VGG16 of SSD': (
        dict(
            type='SSDVGG',
            depth=16,
            with_last_pool=False,
            ceil_mode=True,
            out_indices=(3, 4),
            out_feature_indices=(22, 34),
        ),
        ['features.22', 'features.34'],
        2,
    ),
    'MobileNetV2': (dict(type='MobileNetV2', out_indices=(2,)), 'layer[34].*', 7),
    'FPN': (FPN, 'fpn_convs.*', 2),
    'PAFPN': (dict(FPN, type='PAFPN'), 'pafpn_convs.*', 1),
    'RetinaNet head': (
        dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8),
        'cls_convs.3',
        1,
    ),
    'RPN': (dict(type='RPNHead', in_channels=8, feat_channels=8), 'rpn_conv', 1),
    'SSDNeck': (SSD_NECK, ['l2_norm', 'extra_layers.*'], 5),
    'StairNet': (dict(SSD_NECK, type='StairNet', stair_channels=8), 'out_convs.*', 6),
    'MobileNetV1': (dict(type='MobileNetV1'), 'layer*.*.pointwise_conv', 13),
    'HRNet': (
        dict(
            type='HRNet',
            extra={
                f'stage{stage}': dict(
                    num_modules=1,
                    num_branches=stage,
                    block='BOTTLENECK' if stage == 1 else 'BASIC',
                    num_blocks=(1,) * stage,
                    num_channels=tuple(8 * 2**branch for branch in range(stage)),
                )
                for stage in (1, 2, 3, 4)
            },
        ),
        'stage*.*.branches.*.*.bn2',
        9,
    ),
    'ResNeSt': (
        dict(type='ResNeSt', depth=50, base_channels=8, stem_channels=8),
        'layer3.*.bn3',
        6,
    ),
    'RoIAlign': (
        dict(type='SingleRoIExtractor', roi_layer=ROI_LAYER, out_channels=8, featmap_strides=[4]),
        '.',
        1,
    ),
}


@pytest.fixture(autouse=True)
def _mmdet_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def with_cbam(host: dict, after: object, **options) -> nn.Module:
    plugins = [dict(cfg=dict(type='CBAM', ratio=2, **options), after=after)]
    base = {key: value for key, value in host.items() if key != 'type'}
    return MODELS.build(dict(type='WithPlugins', base_type=host['type'], plugins=plugins, **base))


def randomise(host: nn.Module) -> nn.Module:
    """Gates that differ from 1/2, so that a gate that does not run is seen."""
    for module in host.modules():
        if isinstance(module, CBAM):
            nn.init.constant_(module.spatial_gate.norm.weight, 1.5)
    host.eval()  # mmdet's ResNet returns None
    return host


@pytest.mark.parametrize(('host', 'after', 'count'), HOSTS.values(), ids=HOSTS)
def test_any_host_takes_cbam_with_its_own_keys_and_modes_unchanged(host, after, count):
    plain = MODELS.build(copy.deepcopy(host))
    ours = with_cbam(host, after)
    assert sum(isinstance(module, CBAM) for module in ours.modules()) == count
    assert type(ours) is type(plain)
    own = [key for key in ours.state_dict() if not key.startswith('inserted.')]
    assert own == list(plain.state_dict())
    modes = {name: module.training for name, module in ours.named_modules()}
    assert {name: modes[name] for name, _ in plain.named_modules()} == {
        name: module.training for name, module in plain.named_modules()
    }
    plain.init_weights()  # the L2Norm of SSD's neck has no numbers before
    ours.load_state_dict(plain.state_dict(), strict=False)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])


def flat(output: object) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', sorted(set(HOSTS) - {'RoIAlign'}))
def test_identity_start_leaves_the_features_of_any_host_as_they_are_to_the_bit(name, training):
    host, after, _ = HOSTS[name]
    plain, ours = MODELS.build(copy.deepcopy(host)), with_cbam(host, after, start='identity')
    plain.init_weights()
    missing, unknown = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown and all(key.startswith('inserted.') for key in missing)
    plain.train(training)
    ours.train(training)
    channels = host.get('in_channels', 3)
    if host['type'] in ('RetinaHead', 'RPNHead'):
        inputs = tuple(torch.rand(2, channels, size, size) for size in (32, 16, 8, 4, 2))
    elif isinstance(channels, (list, tuple)):
        inputs = tuple(
            torch.rand(2, count, size, size) for count, size in zip(channels, (38, 19), strict=True)
        )
    else:
        inputs = torch.rand(2, 3, 96, 96)
    torch.manual_seed(1)
    target = flat(plain(inputs))
    torch.manual_seed(1)
    found = flat(ours(inputs))
    assert len(found) == len(target)
    assert all(torch.equal(*pair) for pair in zip(found, target, strict=True))


@pytest.mark.parametrize('plugin', [{}, dict(frozen=True)])
def test_attention_of_frozen_stages_trains_unless_its_config_freezes_it(plugin):
    host = dict(type='ResNet', depth=50, base_channels=8, frozen_stages=1, norm_eval=True)
    net = with_cbam(host, 'layer*.*.bn3', **plugin)
    for _ in range(2):
        net.train()
        frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
        inserted = {name for name, _ in net.named_parameters() if name.startswith('inserted.')}
        assert (inserted & frozen) == (inserted if plugin else set())
        assert any(name.startswith('layer1.') for name in frozen)
        net(torch.rand(2, 3, 64, 64))
        moved = [
            module.running_mean.item() != 0
            for name, module in net.named_modules()
            if name.startswith('inserted.') and isinstance(module, nn.BatchNorm2d)
        ]
        assert len(moved) == 16 and all(moved) != bool(plugin)


def test_learning_rate_and_decay_of_the_attention_are_set_by_paramwise_cfg():
    net = with_cbam(dict(type='ResNet', depth=50, base_channels=8), 'layer*.*.bn3')
    own = dict(custom_keys={'cbam': dict(lr_mult=10, decay_mult=0)})
    optim = build_optim_wrapper(
        net,
        dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01), paramwise_cfg=own),
    ).optimizer
    names = {id(value): name for name, value in net.named_parameters()}
    for group in optim.param_groups:
        ours = '.cbam.' in names[id(group['params'][0])]
        assert (group['lr'], group['weight_decay']) == ((1.0, 0.0) if ours else (0.1, 0.01))


def test_basic_block_applies_cbam_before_the_addition():
    net = randomise(with_cbam(R18, BLOCKS))
    block, cbam = net.layer2[0], net.inserted['layer2/0/bn2'].cbam
    x = torch.randn(2, 8, 6, 6)
    inner = block.bn1(block.conv1(x)).relu()
    inner = nn.functional.batch_norm(
        block.conv2(inner),
        block.bn2.running_mean,
        block.bn2.running_var,
        block.bn2.weight,
        block.bn2.bias,
    )
    assert torch.allclose(block(x), (cbam(inner) + block.downsample(x)).relu(), atol=1e-6)


def test_plugin_of_a_sequential_s_child_runs_once():
    net = with_cbam(*HOSTS['VGG16 of SSD'][:2])
    calls = []
    for place in net.inserted.values():
        place.cbam.register_forward_hook(lambda *args: calls.append(1))
    net(torch.randn(1, 3, 64, 64))
    assert len(calls) == 2


def test_several_plugins_at_a_place_run_in_their_order():
    plugins = [
        dict(cfg=dict(type='CBAM', ratio=2, order='channel'), after='layer1'),
        dict(cfg=dict(type='CBAM', ratio=2, order='spatial'), after=['layer1', 'layer2']),
    ]
    net = insert(MODELS.build(dict(R18)), plugins)
    net.eval()
    assert list(net.inserted) == ['layer1', 'layer2']
    assert list(net.inserted.layer1) == ['cbam', 'cbam2']
    first, second = net.inserted.layer1.cbam, net.inserted.layer1.cbam2
    assert (first.order, second.order) == ('channel', 'spatial')
    x = torch.randn(1, 8, 5, 5)
    raw = nn.Sequential(*net.layer1)(x)
    assert torch.equal(net.layer1(x), second(first(raw)))


def test_inference_keeps_the_output_of_a_block_which_others_may_hold():
    net = randomise(with_cbam(R18, ['layer1', 'layer1.0.bn2']))
    held = []
    net.layer1[-1].register_forward_hook(lambda block, args, y: held.append((y, y.clone())))
    with torch.no_grad():
        net.layer1(torch.randn(1, 8, 6, 6))
    assert torch.equal(*held[0])


def test_inference_writes_over_nothing_where_a_forward_was_replaced():
    """A norm or an attention that somebody switched off by hand."""
    net = randomise(with_cbam(R18, BLOCKS))
    norm, cbam = net.layer1[0].bn2, net.inserted['layer1/0/bn2'].cbam
    x = torch.randn(2, 8, 6, 6)
    before = x.clone()
    norm.forward = lambda x: x
    with torch.no_grad():
        assert torch.equal(norm(x), cbam(before))
        assert torch.equal(x, before)
        del norm.forward
        cbam.forward = lambda x: x
        assert norm(x).shape == x.shape


def test_a_plugin_with_a_forward_of_its_own_needs_no_such_option():
    class Plain(CBAM):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    MODELS.register_module(module=Plain, force=True)
    try:
        plugins = [dict(cfg=dict(type='Plain', ratio=2), after='layer1.0.bn2')]
        net = insert(MODELS.build(dict(R18)), plugins)
        with torch.no_grad():
            assert net.layer1(torch.randn(1, 8, 6, 6)).shape == (1, 8, 6, 6)
    finally:
        MODELS.module_dict.pop('Plain')


def test_host_s_own_plugins_and_ours_stand_side_by_side():
    plugins = [
        dict(cfg=dict(type='CBAM', ratio=4), position='after_conv3'),
        dict(cfg=dict(type='CBAM', ratio=4), after='layer4'),
    ]
    net = MODELS.build(
        dict(type='WithPlugins', base_type='ResNet', depth=50, base_channels=8, plugins=plugins)
    )
    assert sum(isinstance(module, CBAM) for module in net.modules()) == 17


def test_no_plugins_build_the_host_alone():
    net = MODELS.build(dict(type='WithPlugins', base_type='ResNet', depth=18, plugins=None))
    assert not hasattr(net, 'inserted')


def test_plugins_of_frozen_stages_train():
    net = with_cbam(dict(R18, frozen_stages=2), BLOCKS)
    net.train()
    assert not any(parameter.requires_grad for parameter in net.layer1.parameters())
    assert all(parameter.requires_grad for parameter in net.inserted.parameters())


def test_host_s_initialisation_keeps_the_start_of_the_plugin():
    net = with_cbam(R18, BLOCKS)
    net.init_weights()
    for place in net.inserted.values():
        assert place.cbam.spatial_gate.norm.weight.item() == 0


def test_checkpointed_blocks_have_the_same_gradients():
    plain = randomise(with_cbam(R18, BLOCKS))
    other = randomise(with_cbam(dict(R18, with_cp=True), BLOCKS))
    other.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for net in (plain, other):
        net(x.clone().requires_grad_())[-1].sum().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    'change',
    [
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: torch.jit.trace(net, torch.zeros(1, 3, 64, 64)),
        lambda net: torch.compile(net, backend='eager'),
    ],
    ids=['deepcopy', 'pickle', 'trace', 'compile'],
)
def test_copies_run_the_same_function(change):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        target, found = net(x), change(net)(x)
    assert torch.allclose(found[-1], target[-1], atol=1e-6)


EXPORTER = pytest.param(
    True,
    id='dynamo',
    marks=pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version('2.6.0'),
        reason="this torch's own exporter fails at a BatchNorm that is evaluated",
    ),
)


@pytest.mark.parametrize('dynamo', [pytest.param(False, id='torchscript'), EXPORTER])
@pytest.mark.parametrize('host', ['ResNet-18', 'StairNet'])
def test_onnx_runtime_computes_the_same(host, dynamo, tmp_path):
    """Exported at one size; ResNet-18 is run at another one."""
    host, after, _ = HOSTS[host]
    net = with_cbam(host, after)
    net.init_weights()
    randomise(net)
    example, other = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 96, 64)
    axes = dict(dynamic_axes={'x': {0: 'n', 2: 'height', 3: 'width'}})
    if dynamo:
        auto = torch.export.Dim.AUTO
        axes = dict(dynamic_shapes=((auto, 3, auto, auto),))
    inputs = (other,)
    if host['type'] == 'StairNet':
        example = inputs = (torch.rand(1, 8, 38, 38), torch.rand(1, 16, 19, 19))
        net, axes = Flat(net).eval(), {}
    torch.onnx.export(
        net,
        (example,) if isinstance(example, torch.Tensor) else example,
        tmp_path / 'net.onnx',
        dynamo=dynamo,
        verbose=False,
        input_names=['x', 'y'][: len(inputs)],
        **axes,
    )
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True)))
    for theirs, ours in zip(found, net(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)


class Flat(nn.Module):
    """A neck as a function of its levels."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.neck((x, y))


def test_moving_average_runs_its_own_plugins_at_their_averaged_weights():
    net = randomise(with_cbam(R18, BLOCKS))
    average = ExponentialMovingAverage(net, momentum=0.25)
    average.update_parameters(net)
    gate = net.inserted['layer4/1/bn2'].cbam.spatial_gate.norm
    before, x = gate.bias.item(), torch.randn(1, 3, 64, 64)
    kept = average.module(x)[-1].clone()
    nn.init.constant_(gate.bias, before + 4)
    assert torch.equal(average.module(x)[-1], kept)
    average.update_parameters(net)
    averaged = average.module.inserted['layer4/1/bn2'].cbam.spatial_gate.norm
    assert averaged.bias.item() == pytest.approx(before + 1)
    assert not torch.equal(average.module(x)[-1], kept)


def test_distributed_wrapper_has_every_gradient_of_the_plain_host(tmp_path):
    net = randomise(with_cbam(dict(R18, out_indices=(3,)), BLOCKS))
    other, x = copy.deepcopy(net), torch.randn(2, 3, 64, 64)
    net(x)[-1].sum().backward()
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(other)  # finds unused ones: an error
        for _ in range(2):
            wrapped.zero_grad()
            wrapped(x)[-1].sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_copy_runs_its_own_plugins():
    net = randomise(with_cbam(R18, BLOCKS))
    other, x = copy.deepcopy(net), torch.randn(1, 3, 64, 64)
    before = net(x)[-1]
    for parameter in other.inserted.parameters():
        nn.init.constant_(parameter, 0.3)
    assert torch.equal(net(x)[-1], before)
    assert not torch.equal(other(x)[-1], before)


def test_conversion_of_norms_does_not_lose_the_plugins():
    """MMEngine and torch put new modules in the place of norms, without their hooks."""
    net = randomise(with_cbam(R18, BLOCKS))
    x = torch.randn(1, 3, 64, 64)
    target = net(x)[-1]
    reverted = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(net))
    reverted.eval()
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in reverted.modules())
    torch.testing.assert_close(reverted(x)[-1], target)


def test_autocast_runs():
    net = with_cbam(R18, BLOCKS)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.isfinite(net(torch.randn(1, 3, 64, 64))[-1]).all()


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('layer[12].0.bn2', ['layer1.0.bn2', 'layer2.0.bn2']),
        ('layer4.**.bn*', ['layer4.0.bn1', 'layer4.0.bn2', 'layer4.1.bn1', 'layer4.1.bn2']),
        ('*.downsample', []),
        (['layer3', 'layer2'], ['layer2', 'layer3']),
        ('.', ['.']),
    ],
)
def test_pattern_names_parts_between_dots(pattern, names):
    net = MODELS.build(dict(R18))
    if names:
        assert match(net, pattern) == names
    else:
        with pytest.raises(InputError, match='matches no module'):
            match(net, pattern)


@pytest.mark.parametrize(
    ('host', 'after', 'words'),
    [
        (R18, 'layer1.*.bn3', r"after='layer1.\*.bn3' matches no module of ResNet; near names: "),
        (R18, '.', 'no feature map'),
        (FPN, '.', 'the output is tuple, no feature map'),
        (FPN, 'fpn_convs', 'cannot be found out'),
    ],
)
def test_unfit_place_is_an_error_that_lists_near_ones(host, after, words):
    with pytest.raises(InputError, match=words):
        with_cbam(host, after)


@pytest.mark.parametrize(
    ('base', 'plugin', 'words'),
    [
        ('ResNet', dict(cfg=dict(type='CBMA'), after='layer1'), "no plugin 'CBMA' is registered"),
        ('ResNet', dict(cfg=dict(type='CBAM'), aftr='layer1'), 'aftr is unknown; an entry has'),
        ('MobileNetV2', dict(cfg=dict(type='CBAM'), position='after_conv3'), 'takes after'),
    ],
)
def test_entry_that_fits_no_host_is_named(base, plugin, words):
    with pytest.raises(InputError, match=words):
        MODELS.build(dict(type='WithPlugins', base_type=base, depth=18, plugins=[plugin]))


def test_pattern_whose_star_would_cross_a_dot_gets_a_hint():
    with pytest.raises(InputError, match=r"\* is one part of a name; 'layer\*\.\*\.bn2' has three"):
        match(MODELS.build(dict(R18)), 'layer*.bn2')


def test_unknown_option_of_an_entry_is_an_error():
    with pytest.raises(InputError, match='stage is unknown'):
        insert(MODELS.build(dict(R18)), [dict(cfg={}, after='layer1', stage=(True,))])


def test_channels_are_those_of_the_output():
    net = MODELS.build(dict(R18))
    assert find_channels(net, ['layer1', 'layer4.0.conv1', 'maxpool']) == {
        'layer1': 8,
        'layer4.0.conv1': 64,
        'maxpool': 8,
    }


def test_same_seed_gives_the_rest_of_a_pretrained_model_the_same_start(tmp_path):
    """The plugins draw random numbers too; a fair comparison needs equal heads."""
    torch.save(MODELS.build(copy.deepcopy(R18)).state_dict(), tmp_path / 'r18.pth')
    host = dict(R18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth')))
    states = []
    for build in (lambda: MODELS.build(copy.deepcopy(host)), lambda: with_cbam(host, BLOCKS)):
        torch.manual_seed(0)
        net = nn.ModuleList([build(), MODELS.build(copy.deepcopy(FPN))])
        for part in net:
            part.init_weights()
        states.append({**net.state_dict(), 'next': torch.rand(3)})
    plain, ours = states
    assert set(plain) < set(ours)
    assert all(torch.equal(value, ours[key]) for key, value in plain.items())
    place = '0.inserted.layer1/{}/bn2.cbam.channel_gate.fc1.weight'
    assert not torch.equal(ours[place.format(0)], ours[place.format(1)])
