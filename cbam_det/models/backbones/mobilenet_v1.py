"""MobileNetV1 for detection, which tables 5 and 7 of the paper use; mmdet has only MobileNetV2.

Howard et al., 'MobileNets', arXiv:1704.04861: a convolution, then 13 pairs of a depthwise 3x3 and a
pointwise 1x1 convolution, each with BatchNorm and ReLU6. CBAM's paper inserts attention after each
of these 26: `after=['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv']`.
"""

from __future__ import annotations

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.backbones import MobileNetV2
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from ...utils.errors import InputError

BN, RELU6 = dict(type='BN'), dict(type='ReLU6')
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))  # channels, pairs of convolutions


@MODELS.register_module()
class MobileNetV1(MobileNetV2):
    """MobileNetV1 with the options, forward pass and freezing of mmdet's MobileNetV2.

    Args:
        widen_factor: multiplies the channels of every layer (alpha in the paper).
        out_indices: the stages to return, from 0 to 4, with strides 2, 4, 8, 16 and 32.
        frozen_stages: the number of stages that are frozen besides the first convolution; 0 freezes
            only the first convolution, -1 nothing.
        norm_cfg, act_cfg: norm and activation after every convolution.
        norm_eval: keep the BatchNorms' statistics fixed in training.
        init_cfg: initialisation; Kaiming by default.

    Raises:
        InputError: a stage does not exist.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_cfg: dict = BN,
        act_cfg: dict = RELU6,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        kaiming = [
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', val=1, layer='_BatchNorm'),
        ]
        BaseModule.__init__(self, init_cfg or kaiming)
        if not set(out_indices) <= set(range(len(STAGES))):
            raise InputError(
                f'out_indices={out_indices} has a stage that does not exist; use 0 to 4'
            )
        if frozen_stages not in range(-1, len(STAGES) + 1):
            raise InputError(f'frozen_stages={frozen_stages} does not exist; use -1 to 5')
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        options = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        width = int(32 * widen_factor)
        self.conv1 = ConvModule(3, width, 3, stride=2, padding=1, **options)
        self.layers = []
        for index, (channels, pairs) in enumerate(STAGES):
            layer = nn.Sequential()
            for pair in range(pairs):
                stride = 2 if pair == 0 and index > 0 else 1
                out = int(channels * widen_factor)
                layer.append(
                    DepthwiseSeparableConvModule(width, out, 3, stride=stride, padding=1, **options)
                )
                width = out
            self.layers.append(f'layer{index + 1}')
            self.add_module(self.layers[-1], layer)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:
            self.conv1.eval()  # MobileNetV2 does not freeze the statistics of its norm
