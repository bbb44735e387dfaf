"""StairNet's neck: sizes, the equations written out, and the paper's parameter counts."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.dense_heads import SSDHead
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.nn import functional as F

from cbam_det import StairNet
from cbam_det.models.build import build_model
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS

SMALL = dict(
    in_channels=(8, 16),
    out_channels=(8, 16, 8, 8, 8, 8),
    level_strides=(2, 2, 1, 1),
    level_paddings=(1, 1, 0, 0),
    stair_channels=4,
)
ANCHORS = dict(type='SSDAnchorGenerator', strides=[8], ratios=[[2]], min_sizes=[30], max_sizes=[60])
# Millions of parameters in table 7; SE and CBAM are right before each of the six predictors.
TABLE_7 = {
    'ssd300_vgg16_voc': 26.5,
    'stairnet_vgg16_voc': 32.0,
    'stairnet_vgg16_se_voc': 32.1,
    'stairnet_vgg16_cbam_voc': 32.1,
    'ssd300_mobilenet_voc': 5.81,
    'stairnet_mobilenet_voc': 5.98,
    'stairnet_mobilenet_se_voc': 5.99,
    'stairnet_mobilenet_cbam_voc': 6.00,
}


def pyramid(side: int, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 8, side, side), torch.randn(2, 16, top, top)


@pytest.mark.parametrize('depthwise', [False, True])
def test_output_equals_the_equations_at_ssd300_s_sizes(depthwise):
    """The sizes 38, 19, 10, 5, 3, 1 need different paddings of the deconvolutions."""
    neck = StairNet(**SMALL, stair_depthwise=depthwise)
    neck.init_weights()
    neck.eval()
    inputs = pyramid(38, 19)
    levels = super(StairNet, neck).forward(inputs)
    sizes = [level.shape[2] for level in levels]
    assert sizes == [38, 19, 10, 5, 3, 1]
    groups = 4 if depthwise else 1
    above = None
    for index in reversed(range(6)):
        lateral = neck.lateral_convs[index]
        merged = lateral.bn(F.conv2d(levels[index], lateral.conv.weight))
        if above is not None:
            stair, small = neck.stairs[index], above.shape[2]
            padding = 0 if sizes[index] > 2 * small else 1
            extra = sizes[index] - (2 * small + 1 - 2 * padding)
            up = F.conv_transpose2d(above, stair.conv.weight, None, 2, padding, extra, groups)
            merged = merged + stair.bn(up)
        above = merged
        assert torch.allclose(neck(inputs)[index], neck.out_convs[index](merged), atol=1e-6)


@pytest.mark.parametrize('side', [40, 38, 37])
def test_every_output_has_the_stairs_width_and_its_levels_size(side):
    neck = StairNet(**SMALL)
    inputs = pyramid(side, (side + 1) // 2)
    levels = super(StairNet, neck).forward(inputs)
    assert [out.shape for out in neck(inputs)] == [(2, 4, *level.shape[2:]) for level in levels]


def test_patch_of_ssd_heads_keeps_a_subclass_s_own_loss():
    class Focal(SSDHead):
        def __init__(self) -> None:
            super().__init__(in_channels=(8,), anchor_generator=ANCHORS)
            assert self.loss_cls is None
            self.loss_cls = torch.nn.CrossEntropyLoss()

    with DefaultScope.overwrite_default_scope('mmdet'):
        assert isinstance(Focal().loss_cls, torch.nn.CrossEntropyLoss)


def test_levels_that_are_not_half_as_large_are_an_error():
    with pytest.raises(
        InputError,
        match=r'\(19, 19\) pixels must have half the size .* which has \(76, 76\); change',
    ):
        StairNet(**SMALL)(pyramid(76, 19))


@pytest.mark.parametrize(('name', 'millions'), TABLE_7.items())
def test_parameters_are_within_a_hundredth_of_table_7(name, millions):
    model = build_model(Config.fromfile(CONFIGS / f'{name}.py'))
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.01)


def test_parameters_of_stairnet_on_vgg16_are_exact():
    def count(name: str) -> int:
        model = build_model(Config.fromfile(CONFIGS / f'{name}.py'))
        return sum(parameter.numel() for parameter in model.parameters())

    plain = count('stairnet_vgg16_voc')
    gate = 2 * 256 * 16 + 16 + 256  # one MLP with biases
    assert plain == 32_005_600
    assert count('stairnet_vgg16_se_voc') - plain == 6 * gate
    assert count('stairnet_vgg16_cbam_voc') - plain == 6 * (gate + 2 * 49 + 2)
