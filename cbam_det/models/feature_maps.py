"""Check by a forward pass on a small image that the parts of a detector take each other's maps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors.rpn import RPN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from torch import Tensor, nn

from ..utils.config import detector_with_path
from ..utils.errors import InputError
from ..utils.options import cfg_options
from .build import image_channels
from .built_model import in_eval_mode
from .layers.torch_private import drop_compiled_code

SIDE = 128  # pixels
# The errors of a convolution and of a linear layer whose input has other channels.
OF_CONVOLUTION = re.compile(r'to have \d+ channels, but got \d+ channels')
OF_LINEAR = re.compile('shapes cannot be multiplied')
# The code of other packages may change the maps on their way from one part to the next.
KNOWN = ('mmdet.', 'mmpretrain.', 'mmyolo.', 'cbam_det.')


def check_feature_maps(cfg: Config, model: nn.Module) -> None:
    """Check the built detector of `cfg`, whose compiled code is dropped.

    Without this check the first iteration ends in an error that names no key. An error that does
    not show such a fault is left to the run: the image may be too small for a part, and the heads
    of DETR take other inputs than maps. So is a detector with an `extract_feat` of one's own.

    Raises:
        InputError: the backbone does not have an output in its `out_indices`; or neck or heads are
            built for another number of maps, or of their channels.
    """
    if not _is_known(model, 'extract_feat'):
        return
    path = detector_with_path(cfg)[0]
    for module in model.modules():  # compiling takes longer than the run
        drop_compiled_code(module)
    maps: Any = torch.zeros(1, image_channels(cfg), SIDE, SIDE)
    with in_eval_mode(model), torch.no_grad():
        for name in ('backbone', 'neck', 'rpn_head', 'bbox_head'):
            part = getattr(model, name, None)
            if part is None:
                continue
            is_rpn = isinstance(model, RPN) and name == 'bbox_head'
            place = f'{path}.{"rpn_head" if is_rpn else name}'
            try:
                outputs = part(maps)
            except Exception as error:  # of any kind, from the code of any part
                _check_channels(place, part, maps, error)
                return
            if name == 'backbone':
                _check_out_indices(place, part, maps, outputs)
            if name in ('backbone', 'neck'):
                maps = outputs
            else:
                _check_levels(place, part, maps, outputs)
        if _are_maps(maps) and hasattr(model, 'roi_head'):
            _check_roi_head(f'{path}.roi_head', model.roi_head, maps)


def _is_known(part: object, method: str) -> bool:
    """Whether the code of a method is in a package whose parts pass their maps on unchanged."""
    return getattr(getattr(part, method, None), '__module__', '').startswith(KNOWN)


def _are_maps(maps: object) -> bool:
    return isinstance(maps, (list, tuple)) and all(isinstance(item, Tensor) for item in maps)


def _check_out_indices(place: str, backbone: Any, image: Tensor, outputs: Any) -> None:
    indices = getattr(backbone, 'out_indices', None)
    if not isinstance(indices, (list, tuple)) or not _are_maps(outputs):
        return
    if not _is_known(backbone, 'forward'):  # it may give one map for several indices
        return
    if outputs and len(outputs) >= len({*indices}):
        return
    fault = 'has outputs that this {} does not have' if indices else 'names no output of this {}'
    known = 'those that it has'
    with contextlib.suppress(Exception):  # where each output has a layer of its own
        backbone.out_indices = range(100)
        known = f'numbers from 0 to {len(backbone(image)) - 1}'
    raise InputError(
        f'{place}.out_indices={tuple(indices)} {fault.format(type(backbone).__name__)}; give '
        f'{known}'
    )


def _check_channels(place: str, part: nn.Module, maps: Any, error: Exception) -> None:
    """Raise InputError if the error of a part shows that it is built for other maps."""
    if not _are_maps(maps):
        return
    channels = [item.shape[1] for item in maps]
    wanted = getattr(part, 'in_channels', None)
    other_count = isinstance(wanted, (list, tuple)) and len(wanted) != len(maps)
    fitting = _fitting(wanted, channels)
    # A linear layer can also be built for another image size.
    other_channels = OF_CONVOLUTION.search(str(error)) or (fitting and OF_LINEAR.search(str(error)))
    if not other_channels and not (other_count and isinstance(error, AssertionError)):
        return
    kind = type(part).__name__
    remedy = f'check the options of this {kind}'
    if fitting:
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


def _check_levels(place: str, head: nn.Module, maps: Any, outputs: Any) -> None:
    """Raise InputError if a dense head has anchors or points for another number of maps."""
    levels = getattr(getattr(head, 'prior_generator', None), 'num_levels', None)
    if levels is None or not _are_maps(maps) or levels == len(maps):
        return
    scores = outputs[0] if isinstance(outputs, tuple) and outputs else None
    if isinstance(scores, list) and len(scores) == levels:
        return  # FCOS, for example, leaves out further maps
    raise InputError(
        f'{place} ({type(head).__name__}) has {levels} strides, but gets {len(maps)} maps; '
        'give it one stride for each map, or the neck as many num_outs'
    )


def _check_roi_head(place: str, roi_head: Any, maps: Sequence[Tensor]) -> None:
    """Raise InputError if the extractors or heads of regions are built for other channels."""
    if not _is_known(roi_head, '_bbox_forward'):
        return
    for kind in ('bbox', 'mask'):
        extractors, heads = (
            [*parts] if isinstance(parts, nn.ModuleList) else [parts]
            for parts in (
                getattr(roi_head, f'{kind}_{part}', None) for part in ('roi_extractor', 'head')
            )
        )
        for extractor, head in zip(extractors, heads, strict=False):
            if type(extractor) is not SingleRoIExtractor or head is None:
                continue
            own = f'{place}.{kind}_roi_extractor.out_channels'
            channels = maps[0].shape[1]
            if extractor.num_inputs > 1 and extractor.out_channels != channels:
                raise InputError(
                    f'{own}={extractor.out_channels}, but the maps have {channels} channels; give '
                    f'{cfg_options({own: channels})}'
                )
            size = extractor.roi_layers[0].output_size
            rois = torch.zeros(1, channels, *size)
            try:
                head(roi_head.shared_head(rois) if roi_head.with_shared_head else rois)
            except RuntimeError as error:
                if OF_CONVOLUTION.search(str(error)) or OF_LINEAR.search(str(error)):
                    raise InputError(
                        f'{place}.{kind}_head ({type(head).__name__}) is built for other regions '
                        f'than those of {channels} channels and {size[0]}x{size[1]} pixels that '
                        'it gets; set its in_channels and roi_feat_size'
                    ) from error
            except Exception:  # it takes other inputs too
                continue
