"""How many channels the output of each module of a host has, seen in a pass of an empty input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from ..utils.errors import InputError, first_few
from .plugin_hooks import ITSELF, get_module


def places(host: nn.Module) -> Iterator[str]:
    """The names that a pattern can match: every module of the host, and '.' for itself."""
    for name, _ in host.named_modules():
        if not name.startswith('inserted'):
            yield name or ITSELF


def find_channels(
    host: nn.Module, names: Sequence[str], in_channels: int | Sequence[int] | None = None
) -> dict[str, int]:
    """C of each named module's output, seen in a forward of `host` on an empty input.

    Where the host cannot be run on its own, the modules' own `out_channels` or `num_features`.

    Raises:
        InputError: an output is no feature map, or C cannot be found out.
    """
    outputs: dict[str, object] = {}
    hooks = [
        get_module(host, name).register_forward_hook(RecordOutput(outputs, name)) for name in names
    ]
    modes = {module: module.training for module in host.modules()}
    host.eval()
    # 32 where a neck goes down further than 4 pixels allow
    for channels, size in product(_candidate_channels(host, in_channels), (4, 32)):
        try:
            with torch.no_grad():
                host(_dummy_input(host, channels, size))
            break
        except Exception:
            outputs.clear()  # a host with other inputs: ask its modules
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
    return {name: _output_channels(host, name, outputs) for name in names}


def _candidate_channels(
    host: nn.Module, in_channels: int | Sequence[int] | None
) -> list[int | Sequence[int]]:
    """What `host` may take: what is given; else what a neck or a head says; else images of 3
    channels, or of what its first convolution takes (a Focus stem's are not the image's).
    """
    if in_channels is not None:
        return [in_channels]
    own = getattr(host, 'in_channels', 3)
    if not isinstance(own, int) or hasattr(host, 'prior_generator'):
        return [own]
    first = next((part for part in host.modules() if isinstance(part, nn.Conv2d)), None)
    return list(dict.fromkeys([3, first.in_channels if first else 3, own]))


def _dummy_input(
    host: nn.Module, channels: int | Sequence[int], size: int
) -> Tensor | tuple[Tensor, ...]:
    """A small input: a pyramid for a neck or a dense head, its top `size` wide; else an image."""
    priors = getattr(host, 'prior_generator', None)
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


def _output_channels(host: nn.Module, name: str, outputs: dict[str, object]) -> int:
    module = get_module(host, name)
    where = f'{type(host).__name__}, after={name!r}'
    if name in outputs:
        output = outputs[name]
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f'{where}: the output is {shape}, no feature map (N, C, H, W); name a module '
                f'whose output is one: {first_few(_leaves_inside(host, name), 5)}'
            )
        return output.shape[1]
    for attribute in ('out_channels', 'num_features', 'num_channels'):
        if isinstance(getattr(module, attribute, None), int):
            return getattr(module, attribute)
    raise InputError(
        f'{where}: the channels of its {type(module).__name__} cannot be found out; give '
        'in_channels in cfg, or name a convolution or norm in it'
    )


def _leaves_inside(host: nn.Module, name: str) -> list[str]:
    prefix = '' if name == ITSELF else f'{name}.'
    return [
        inner
        for inner in places(host)
        if inner.startswith(prefix)
        and inner != name
        and not list(get_module(host, inner).children())
    ] or ['(none)']


class RecordOutput:
    """A forward hook that notes the first output of its module under `key` in `outputs`."""

    def __init__(self, outputs: dict, key: str | nn.Module) -> None:
        self.outputs, self.key = outputs, key

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        self.outputs.setdefault(self.key, output)
