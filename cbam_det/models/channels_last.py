"""Models in torch's channels_last memory format, in which convolutions are faster on most machines.

The format changes the order of a map's numbers in memory and no number but by rounding. Code that
reads the memory itself must know it:

- mmcv's compiled operators (RoIAlign, deformable convolutions) read it as if it were contiguous,
  and some of them silently compute wrong numbers: https://github.com/open-mmlab/mmcv/issues/2203.
- torch's fused optimizers step through weights and states together. With states of another format
  they silently compute wrong steps.
"""

from __future__ import annotations

import functools
import inspect
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from mmcv import ops
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.utils import apply_to
from torch import Tensor, nn

from ..utils.errors import InputError

# Operators of mmcv that read a feature map, as functions instead of modules.
MAP_FUNCTIONS = (
    *('roi_align', 'roi_pool', 'roi_align_rotated', 'prroi_pool', 'deform_roi_pool'),
    *('deform_conv2d', 'modulated_deform_conv2d', 'masked_conv2d', 'carafe', 'carafe_naive'),
    *('border_align', 'rotated_feature_align', 'bilinear_grid_sample', 'upfirdn2d'),
)
REMEDY = 'leave --channels-last out, or give --cfg-options channels_last=False'


def to_channels_last(model: nn.Module) -> nn.Module:
    """Bring a model's weights, and so its feature maps, into the format; call it once per model.

    The inputs of mmcv's operators are made contiguous first, and their own weights stay so.

    Raises:
        InputError: see `check_channels_last`.
    """
    check_channels_last(model)
    set_format(model)
    for module in model.modules():
        if _is_operator(module):
            module.register_forward_pre_hook(_contiguous, with_kwargs=True)
    return model


def set_format(model: nn.Module) -> None:
    """Bring the weights alone into the format, except those of mmcv's operators."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if _is_operator(module):
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def check_channels_last(model: nn.Module) -> None:
    """Check that a model computes the same in the format.

    Raises:
        InputError: a module has the weights of a 3-D convolution, or calls an operator of mmcv as a
            function, whose inputs cannot be made contiguous from outside (TOOD's head).
    """
    for name, module in model.named_modules():
        place = f'{name} ({type(module).__name__})'
        if any(weight.dim() == 5 for weight in module.parameters(recurse=False)):
            raise InputError(
                f'channels_last is a format of 2-D convolutions, but {place} has the weights of a '
                f'3-D one; {REMEDY}'
            )
        if (function := _map_function(type(module))) and not _is_operator(module):
            raise InputError(
                f"{place} calls mmcv's {function}, which reads contiguous feature maps alone, so "
                f'the model cannot be in channels_last; {REMEDY}'
            )


def contiguous_checkpoint(checkpoint: dict) -> None:
    """Make the tensors of a checkpoint contiguous, as those of a run without channels_last.

    Args:
        checkpoint: what a runner is about to write; its entries are replaced, its tensors stay.
    """
    for key, value in checkpoint.items():
        if key not in ('meta', 'message_hub'):
            checkpoint[key] = apply_to(
                value, lambda item: isinstance(item, Tensor), torch.Tensor.contiguous
            )


def align_states(wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Bring the states of optimizers, such as momenta, into the format of their weights.

    A checkpoint may be of a run in the other format.
    """
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,)
    pairs = [pair for part in wrappers for pair in part.optimizer.state.items()]
    for weight, states in pairs:
        for name, state in states.items():
            # The count of steps is on the CPU, and has the shape of a weight that is one number.
            if isinstance(state, Tensor) and state.dim() and state.shape == weight.shape:
                aligned = torch.empty_like(weight, dtype=state.dtype, device=state.device)
                states[name] = aligned.copy_(state)


def _is_operator(module: nn.Module) -> bool:
    return type(module).__module__.startswith('mmcv.ops.')


def _map_function(kind: type) -> str | None:
    """The first of `MAP_FUNCTIONS` that the methods of a class use, or the functions that they call
    of the same file.
    """
    members = [member for base in kind.__mro__ for member in vars(base).values()]
    members = [getattr(member, '__func__', getattr(member, 'fget', member)) for member in members]
    methods = [inspect.unwrap(method) for method in members if isinstance(method, FunctionType)]
    queue = [method for method in methods if not method.__module__.startswith('torch.')]
    for function in queue:
        for value in _globals_in(function):
            for name in filter(functools.partial(hasattr, ops), MAP_FUNCTIONS):
                if value is getattr(ops, name):
                    return name
            is_near = isinstance(value, FunctionType) and value.__module__ == function.__module__
            if is_near and value not in queue:
                queue.append(value)
    return None


def _globals_in(function: FunctionType) -> list[object]:
    """The globals that a function uses, and what it reads of modules (`mmcv.ops.roi_align`)."""
    codes, names = [function.__code__], set()
    for code in codes:  # with the functions inside
        names |= {*code.co_names}
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    for value in values:
        if isinstance(value, ModuleType):
            inner = [vars(value)[name] for name in names if name in vars(value)]
            values += [each for each in inner if all(each is not other for other in values)]
    return values


def _contiguous(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    def contiguous(value: Any) -> Any:
        return value.contiguous() if isinstance(value, Tensor) else value

    return tuple(map(contiguous, args)), {
        name: contiguous(value) for name, value in options.items()
    }
