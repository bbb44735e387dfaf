"""Mixed precision on the CPU, which MMEngine's `AmpOptimWrapper` refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Trains under torch's autocast of the CPU: convolutions and linear layers in bfloat16.

    Weights, gradients, the optimizer's state and the losses stay float32. bfloat16 has float32's
    range, so that no gradient vanishes and no loss is scaled. What dense heads return and what RoI
    extractors get is turned to float32: mmdet makes anchors and boxes in the type of these, which
    near 1,000 pixels has steps of 4, and mmcv's NMS and RoIAlign take no bfloat16 on the CPU.

    Neither do mmcv's deformable convolutions: they raise torch's error. Heads that are no dense
    heads (DETR's) keep bfloat16. The arguments are
    OptimWrapper's; `tools/train.py --amp` takes this wrapper where torch sees no GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The surroundings of a training step's forward pass; `model` is what it runs."""
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            stack.enter_context(torch.autocast('cpu', torch.bfloat16))
            for module in model.modules():
                if isinstance(module, BaseDenseHead):
                    stack.enter_context(module.register_forward_hook(_outputs_in_float32))
                elif isinstance(module, BaseRoIExtractor):
                    stack.enter_context(module.register_forward_pre_hook(_inputs_in_float32))
            yield


def _outputs_in_float32(module: nn.Module, inputs: tuple, outputs: object) -> object:
    return _in_float32(outputs)


def _inputs_in_float32(module: nn.Module, inputs: tuple) -> object:
    return _in_float32(inputs)


def _in_float32(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_in_float32, value))
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
