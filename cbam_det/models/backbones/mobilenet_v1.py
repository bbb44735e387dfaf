"""MobileNetV1 for detection, for tables 5 and 7 of the paper; mmdet has V2 alone.

Howard et al., 'MobileNets', arXiv:1704.04861: a convolution, then 13 pairs of a depthwise 3x3 and a
pointwise 1x1 convolution, each with BatchNorm and ReLU6. The paper's attention stands after every
one of these 26: `after=['layer*.*.depthwise_conv', 'layer*.*.pointwise_conv']`.
"""

from __future__ import annotations

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.backbones import MobileNetV2
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from ...utils.errors import InputError

BN, RELU6 = dict(type='BN'), dict(type='ReLU6')
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))  # channels, pairs; strides 1 2 2 2 2


@MODELS.register_module()
class MobileNetV1(MobileNetV2):
    """MobileNetV1 with mmdet's options of MobileNetV2, whose forward, freezing and modes it has.

    Args:
        widen_factor: multiplies every width (alpha of the paper).
        out_indices: stages that are returned, 0 to 4, of strides 2, 4, 8, 16, 32.
        frozen_stages: stages that do not train, from the first; 0 is the first convolution alone,
            -1 none.
        norm_cfg, act_cfg: of every convolution.
        norm_eval: keep the BatchNorms' statistics in training.
        init_cfg: initialisation; Kaiming without.

    Raises:
        InputError: a stage that does not exist.
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
            raise InputError(f'out_indices={out_indices} names no stages; use some of 0 to 4')
        if frozen_stages not in range(-1, len(STAGES) + 1):
            raise InputError(f'frozen_stages={frozen_stages} names no stage; use -1 to 5')
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
            self.conv1.eval()  # MobileNetV2 leaves its norm's statistics moving
