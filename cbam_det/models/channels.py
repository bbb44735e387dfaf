"""Find the number of output channels of a component's modules by a forward pass on zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from ..utils.errors import InputError, first_few
from .built_model import in_eval_mode
from .plugin_hooks import ITSELF, get_module


def module_names(component: nn.Module) -> Iterator[str]:
    """Yield the names that a pattern can match: each module, and '.' for the component itself."""
    for name, _ in component.named_modules():
        if not name.startswith('inserted'):
            yield name or ITSELF


def find_channels(
    component: nn.Module, names: Sequence[str], in_channels: int | Sequence[int] | None = None
) -> dict[str, int]:
    """Find C of the output (N, C, H, W) of each named module by running `component` on zeros.

    If the component cannot run on its own, C is the module's `out_channels` or `num_features`.

    Raises:
        InputError: an output is not a feature map, or C cannot be determined.
    """
    outputs: dict[str, object] = {}
    hooks = [
        get_module(component, name).register_forward_hook(partial(record_output, outputs, name))
        for name in names
    ]
    with in_eval_mode(component), torch.no_grad():
        # Size 32 is for necks that downsample more often than 4 pixels allow.
        for channels, size in product(_candidate_channels(component, in_channels), (4, 32)):
            try:
                component(_dummy_input(component, channels, size))
                break
            except Exception:
                outputs.clear()  # the component takes other inputs
    for hook in hooks:
        hook.remove()
    return {name: _output_channels(component, name, outputs) for name in names}


def _candidate_channels(
    component: nn.Module, in_channels: int | Sequence[int] | None
) -> list[int | Sequence[int]]:
    """The numbers of input channels to try: `in_channels` if given; those of a neck or head; for a
    backbone 3, then those of its first convolution, which differ from the image's in a Focus stem.
    """
    if in_channels is not None:
        return [in_channels]
    own = getattr(component, 'in_channels', 3)
    if not isinstance(own, int) or hasattr(component, 'prior_generator'):
        return [own]
    first = next((part for part in component.modules() if isinstance(part, nn.Conv2d)), None)
    return list(dict.fromkeys([3, first.in_channels if first else 3, own]))


def _dummy_input(
    component: nn.Module, channels: int | Sequence[int], size: int
) -> Tensor | tuple[Tensor, ...]:
    """Zeros for a forward pass: for a neck or dense head a pyramid whose smallest level has `size`
    pixels a side, otherwise an image.
    """
    priors = getattr(component, 'prior_generator', None)
    if isinstance(channels, int) and priors is not None:
        channels = [channels] * priors.num_levels
    if isinstance(channels, (list, tuple)):
        sides = [size * 2**level for level in range(len(channels) - 1, -1, -1)]
        return tuple(
            torch.zeros(1, count, side, side) for count, side in zip(channels, sides, strict=True)
        )
    depth = channels if isinstance(channels, int) else 3
    side = 224 if depth < 16 else 32  # an image, or a feature map
    return torch.zeros(1, depth, side, side)


def _output_channels(component: nn.Module, name: str, outputs: dict[str, object]) -> int:
    module = get_module(component, name)
    where = f'{type(component).__name__}, after={name!r}'
    if name in outputs:
        output = outputs[name]
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f'{where}: the output is {shape}, not a feature map (N, C, H, W); name a module '
                f'whose output is one: {first_few(_layers_inside(component, name), 5)}'
            )
        return output.shape[1]
    for attribute in ('out_channels', 'num_features', 'num_channels'):
        if isinstance(getattr(module, attribute, None), int):
            return getattr(module, attribute)
    raise InputError(
        f'{where}: the output channels of this {type(module).__name__} cannot be determined; give '
        'in_channels in cfg, or name a convolution or norm inside it'
    )


def _layers_inside(component: nn.Module, name: str) -> list[str]:
    prefix = '' if name == ITSELF else f'{name}.'
    return [
        inner
        for inner in module_names(component)
        if inner.startswith(prefix)
        and inner != name
        and not list(get_module(component, inner).children())
    ] or ['(none)']


def record_output(
    outputs: dict, key: str | nn.Module, module: nn.Module, args: tuple, output: object
) -> None:
    """Store the first output of a module as `outputs[key]`; a forward hook by `partial`."""
    outputs.setdefault(key, output)
