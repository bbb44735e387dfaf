"""StairNet's neck: a top-down path over SSD's pyramid, as in table 7 of the paper.

Woo, Hwang and Kweon, 'StairNet: Top-Down Semantic Aggregation for Accurate One Shot Detection',
WACV 2018. From the coarsest level down::

    lateral  = BN(1x1 convolution)        of each level of SSD's pyramid
    merged   = lateral + BN(3x3 deconvolution with stride 2)(merged of the level above)
    out      = ReLU(BN(3x3 convolution))(merged)

No code was published; the layers were chosen to match table 7. VGG16 with 256 channels, 20 classes,
6, 6, 6, 6, 4 and 4 anchors and separate 3x3 predictors has its 32.0 M parameters, and 32.1 M with
six CBAMs after `out_convs`. MobileNet needs 128 channels and depthwise convolutions to match.
"""

from __future__ import annotations

from typing import Any

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.necks import SSDNeck
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import InputError

BN = dict(type='BN')


@MODELS.register_module()
class StairNet(SSDNeck):
    """SSD's neck with a top-down path over its levels.

    Args:
        in_channels, out_channels, ...: the options of `mmdet.models.necks.SSDNeck`, which builds
            the pyramid; `out_channels` are the channels of the pyramid's levels.
        stair_channels: the channels of every output level.
        stair_depthwise: use depthwise deconvolutions and 3x3 convolutions.
        stair_norm_cfg: the norm after each convolution of the top-down path.
    """

    def __init__(
        self,
        *args: Any,
        out_channels: tuple[int, ...],
        stair_channels: int = 256,
        stair_depthwise: bool = False,
        stair_norm_cfg: dict = BN,
        **options: Any,
    ) -> None:
        super().__init__(*args, out_channels=out_channels, **options)
        width, norm = stair_channels, dict(norm_cfg=stair_norm_cfg, bias=False)
        if self.init_cfg:
            self.init_cfg += [dict(type='Xavier', distribution='uniform', layer='ConvTranspose2d')]
        self.lateral_convs = nn.ModuleList(
            ConvModule(channels, width, 1, act_cfg=None, **norm) for channels in out_channels
        )
        groups = width if stair_depthwise else 1
        self.stairs = nn.ModuleList(
            ConvModule(
                width,
                width,
                3,
                stride=2,
                groups=groups,
                conv_cfg=dict(type='deconv'),
                act_cfg=None,
                **norm,
            )
            for _ in out_channels[1:]
        )
        conv = DepthwiseSeparableConvModule if stair_depthwise else ConvModule
        self.out_convs = nn.ModuleList(
            conv(width, width, 3, padding=1, **norm) for _ in out_channels
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Backbone levels (N, C_i, H_i, W_i) -> output levels (N, stair_channels, H_j, W_j).

        Raises:
            InputError: a level is not about half the size of the one below it.
        """
        levels = super().forward(inputs)
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, levels, strict=True)]
        for below in range(len(merged) - 2, -1, -1):
            stair = self.stairs[below](merged[below + 1])
            merged[below] = merged[below] + _crop_to(stair, merged[below])
        return tuple(conv(x) for conv, x in zip(self.out_convs, merged, strict=True))


def _crop_to(stair: Tensor, level: Tensor) -> Tensor:
    """Crop the deconvolution's 2n + 1 rows and columns to the size of the level below.

    That is 2n - 1, 2n or 2n + 1. It equals a padding of the deconvolution, but which one depends on
    the input size (5 -> 10 and 10 -> 19 in the same network).
    """
    rows, columns = (stair.shape[axis] - level.shape[axis] for axis in (2, 3))
    if not (0 <= rows <= 2 and 0 <= columns <= 2):
        raise InputError(
            f'StairNet: the level of {tuple((size - 1) // 2 for size in stair.shape[2:])} pixels '
            f'must have half the size of the level below it, which has {tuple(level.shape[2:])}; '
            'change level_strides or the input size'
        )
    top, left = (rows + 1) // 2, (columns + 1) // 2
    return stair[:, :, top : top + level.shape[2], left : left + level.shape[3]]
