"""Check by a forward pass on a small image that the parts of a detector take each other's maps."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..utils.config import detector_with_path
from ..utils.errors import InputError
from ..utils.options import cfg_options
from .build import image_channels
from .built_model import in_eval_mode
from .layers.torch_private import drop_compiled_code

SIDE = 128  # pixels
OTHER_CHANNELS = re.compile(r'to have \d+ channels, but got \d+ channels')  # of a convolution


def check_feature_maps(cfg: Config, model: nn.Module) -> None:
    """Check the built detector of `cfg`, whose compiled code is dropped.

    Without this check the first iteration ends in an error that names no key. An error that does
    not show such a fault is left to the run: the image may be too small for a part, and the heads
    of DETR take other inputs than maps.

    Raises:
        InputError: the backbone does not have an output in its `out_indices`; or neck or dense head
            are built for another number of maps or of their channels.
    """
    path = detector_with_path(cfg)[0]
    for module in model.modules():  # compiling takes longer than the run
        drop_compiled_code(module)
    maps: object = torch.zeros(1, image_channels(cfg), SIDE, SIDE)
    with in_eval_mode(model), torch.no_grad():
        for name in ('backbone', 'neck', 'rpn_head', 'bbox_head'):
            part = getattr(model, name, None)
            if part is None:
                continue
            try:
                outputs = part(maps)
            except Exception as error:  # of any kind, from the code of any part
                _check_channels(f'{path}.{name}', part, maps, error)
                return
            if name == 'backbone':
                _check_out_indices(f'{path}.{name}', part, maps, outputs)
            if name in ('backbone', 'neck'):
                maps = outputs


def _check_out_indices(place: str, backbone: Any, image: object, outputs: object) -> None:
    indices = getattr(backbone, 'out_indices', None)
    if not isinstance(indices, (list, tuple)) or not isinstance(outputs, (list, tuple)):
        return
    if len(outputs) >= len({*indices}):
        return
    known = 'those that it has'
    with contextlib.suppress(Exception):  # where each output has a layer of its own
        backbone.out_indices = range(100)
        known = f'numbers from 0 to {len(backbone(image)) - 1}'
    raise InputError(
        f'{place}.out_indices={tuple(indices)} has outputs that this {type(backbone).__name__} '
        f'does not have; give {known}'
    )


def _check_channels(place: str, part: nn.Module, maps: object, error: Exception) -> None:
    """Raise InputError if the error of a part shows that it is built for other maps."""
    if not isinstance(maps, (list, tuple)) or not all(isinstance(item, Tensor) for item in maps):
        return
    channels = [item.shape[1] for item in maps]
    wanted = getattr(part, 'in_channels', None)
    other_count = isinstance(wanted, (list, tuple)) and len(wanted) != len(maps)
    if not OTHER_CHANNELS.search(str(error)) and not (
        other_count and isinstance(error, AssertionError)
    ):
        return
    kind = type(part).__name__
    remedy = f'check the options of this {kind}'
    if fitting := _fitting(wanted, channels):
        remedy = f'give {cfg_options({f"{place}.in_channels": fitting})}'
    raise InputError(
        f'{place} ({kind}) has in_channels={wanted}, but gets {len(maps)} maps of '
        f'{", ".join(map(str, channels))} channels; {remedy}'
    ) from error


def _fitting(wanted: object, channels: list[int]) -> int | list[int] | None:
    """The `in_channels` of a part for maps of these channels; None if `wanted` is right already."""
    if isinstance(wanted, int):
        return channels[0] if {*channels} == {channels[0]} != {wanted} else None
    if not isinstance(wanted, (list, tuple)):
        return None
    # YOLOv3's neck has them from the last map to the first.
    is_reversed = [*wanted] == sorted(wanted, reverse=True) != sorted(wanted)
    fitting = channels[::-1] if is_reversed else channels
    return fitting if fitting != [*wanted] else None
