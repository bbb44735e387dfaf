"""StairNet's neck: SSD's pyramid with its meaning carried downstairs, for table 7 of the paper.

Woo, Hwang and Kweon, 'StairNet: Top-Down Semantic Aggregation for Accurate One Shot Detection',
WACV 2018. From the coarsest level down::

    lateral  = BN(1x1 convolution)        of each level of SSD's pyramid
    merged   = lateral + BN(3x3 deconvolution with stride 2)(merged of the level above)
    out      = ReLU(BN(3x3 convolution))(merged)

The layout is inferred: with VGG16, 256 channels, 20 classes, 6, 6, 6, 6, 4, 4 anchors and separate
3x3 predictors it has the 32.0 M parameters of table 7, and 32.1 M with six CBAMs behind
`out_convs`. With MobileNet the table's sizes ask for 128 channels and depthwise convolutions.
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
    """SSD's neck, and the top-down path over its levels.

    Args:
        in_channels, out_channels, ...: those of `mmdet.models.necks.SSDNeck`, which makes the
            pyramid; `out_channels` are the pyramid's.
        stair_channels: channels of every output level.
        stair_depthwise: make the deconvolutions and the 3x3 convolutions depthwise.
        stair_norm_cfg: the norm after each convolution of the stairs.
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
        """The backbone's levels (N, C_i, H_i, W_i) -> the pyramid's (N, stair_channels, H_j, W_j).

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
    """Cut 2n + 1 rows and columns to the 2n - 1, 2n or 2n + 1 of the level below.

    The same as the padding that a deconvolution needs to meet that size (5 -> 10 and 10 -> 19 in
    one network), but known only where the sizes are.
    """
    rows, columns = (stair.shape[axis] - level.shape[axis] for axis in (2, 3))
    if not (0 <= rows <= 2 and 0 <= columns <= 2):
        raise InputError(
            f"StairNet's levels of {tuple(level.shape[2:])} and, above it, "
            f'{tuple((size - 1) // 2 for size in stair.shape[2:])} are no stairs: each level '
            'has to be half the size of the one below; change level_strides or the input size'
        )
    top, left = (rows + 1) // 2, (columns + 1) // 2
    return stair[:, :, top : top + level.shape[2], left : left + level.shape[3]]
