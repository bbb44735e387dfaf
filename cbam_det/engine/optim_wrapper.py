"""Mixed precision in bfloat16: on the CPU, which MMEngine does not support, and on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Trains under torch's CPU autocast: convolutions and linear layers run in bfloat16.

    Weights, gradients, the state of the optimizer and the losses stay float32. bfloat16 has the
    range of float32, so gradients do not vanish and losses are not scaled.

    The outputs of dense heads and the inputs of RoI extractors are converted to float32. mmdet
    creates anchors and boxes in their type, and bfloat16 has steps of 4 pixels near 1,000. Also,
    mmcv's NMS and RoIAlign do not support bfloat16 on the CPU. mmcv's deformable convolutions do
    not support it either: they raise torch's error. Other heads, such as DETR's, keep bfloat16.

    The arguments are those of OptimWrapper. `tools/train.py --amp` uses this wrapper if torch sees
    no GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context in which a training step runs the forward pass of `model`."""
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            stack.enter_context(torch.autocast('cpu', torch.bfloat16))
            stack.enter_context(_boxes_in_float32(model))
            yield


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(AmpOptimWrapper):
    """MMEngine's `AmpOptimWrapper` for bfloat16 on GPUs, with which mmdet's detectors can train.

    mmcv's RoIAlign and focal loss for GPUs do not support bfloat16, and boxes would lose precision.
    So the same outputs and inputs are float32 as in `CPUAmpOptimWrapper`. `CheckedRunner` uses it
    in place of an AmpOptimWrapper with `dtype='bfloat16'`; the arguments are the same.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context in which a training step runs the forward pass of `model`."""
        with super().optim_context(model), _boxes_in_float32(model):
            yield


@contextmanager
def _boxes_in_float32(model: nn.Module) -> Iterator[None]:
    """Convert the outputs of dense heads and the inputs of RoI extractors to float32."""
    with ExitStack() as stack:
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
