"""List the places of a detector where a CBAM can be inserted, with its cost there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

from ..utils.config import detector_with_path, is_detector
from ..utils.errors import InputError
from .build import build_model, image_channels
from .built_model import count_parameters
from .channels import find_channels, module_names
from .costs import regions
from .insertion import default_places, match
from .plugin_hooks import get_module
from .plugins import CBAM

COMPONENTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'roi_head.bbox_roi_extractor')


@dataclass(frozen=True)
class Place:
    """A module whose output is a feature map.

    Attributes:
        component: the component's path in the config below `model`, such as 'backbone'.
        name: the module's name in the component, as in `after`.
        kind: the module's class.
        shape: (C, H, W) of its first output.
        maps: the number of its outputs per image: levels in a head, regions in an RoI extractor.
        parameters: the parameters that a CBAM adds there.
        multiply_adds: the multiply-adds that a CBAM adds there over all maps: MLP, convolution and
            the two multiplications of the map.
    """

    component: str
    name: str
    kind: str
    shape: tuple[int, int, int]
    maps: int
    parameters: int
    multiply_adds: int


def find_places(cfg: Config, size: int = 256, pattern: str = '*') -> list[Place]:
    """List the places of the detector or classifier of `cfg` by a forward pass on zeros.

    Args:
        cfg: its config.
        size: height and width of the image in pixels, a multiple of 32.
        pattern: a pattern of `COMPONENT:NAME`, such as 'backbone:layer*'; `*` matches anything.

    Raises:
        InputError: the model cannot run on such an image, or no place matches.
    """
    model = build_model(cfg)
    model.eval()
    components: dict[str, nn.Module] = {}
    for path in COMPONENTS:
        try:
            component = model.get_submodule(path)
        except AttributeError:
            continue
        components.update(
            {f'{path}.{index}': module for index, module in enumerate(component)}
            if isinstance(component, nn.ModuleList)
            else {path: component}
        )
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {}

    def record(module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            shapes.setdefault(module, []).append(tuple(output.shape[1:]))

    for component in components.values():
        for module in component.modules():
            module.register_forward_hook(record)
    image = torch.zeros(1, image_channels(cfg), size, size)
    try:
        with torch.no_grad():
            if is_detector(cfg):  # whose RoI heads get their regions from its predictions
                model.predict(image, [_sample(size)])
            else:
                model.extract_feat(image)
    except Exception as error:  # of any kind, from the code of any detector
        reason = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        raise InputError(
            f'{type(model).__name__} cannot run on an image of {size}x{size} pixels ({reason}), '
            'so its places are unknown; give another --size'
        ) from error
    region_count = regions(model, training=False)
    matching = []
    for path, component in components.items():
        for name in module_names(component):
            module = get_module(component, name)
            if module in shapes and fnmatchcase(f'{path}:{name}', pattern):
                repeats = region_count if path.startswith('roi_head') else 1
                matching.append(_describe_place(path, name, module, shapes[module], repeats))
    if not matching:
        raise InputError(
            f'no place matches {pattern!r}; the components are {", ".join(components)}'
        )
    return matching


def _sample(size: int) -> DetDataSample:
    """What mmdet's detectors ask of an image of this height and width."""
    shape = (size, size)
    return DetDataSample(
        metainfo=dict(
            img_shape=shape,
            ori_shape=shape,
            pad_shape=shape,
            batch_input_shape=shape,
            scale_factor=(1.0, 1.0),
        )
    )


def total_cost(places: Sequence[Place]) -> str:
    """The cost of a CBAM at each place: '16 CBAMs, +2.53 M parameters, +20.1 M multiply-adds'."""
    parameters = sum(place.parameters for place in places) / 1e6
    adds = sum(place.multiply_adds for place in places) / 1e6
    return f'{_cbams(len(places))}, +{parameters:.2f} M parameters, +{adds:,.1f} M multiply-adds'


def _cbams(count: int) -> str:
    return f'{count} CBAM{"s" if count != 1 else ""}'


def fragment(cfg: Config, component: str, after: str | Sequence[str] | None = None) -> str:
    """The config lines that insert a CBAM after the modules `after` of `component`, or at the
    paper's places.

    Raises:
        InputError: the detector has no such component or module, or the config is a pure Python
            config.
    """
    path, node = detector_with_path(cfg)
    for key in component.split('.'):
        if not isinstance(node, dict) or not node.get(key):
            raise InputError(f'the model has no {component}; choose from {", ".join(COMPONENTS)}')
        node = node[key]
    if not isinstance(node, dict):
        raise InputError(
            f'{component} is a list in {cfg.filename}, for which no lines can be printed; write '
            "type='WithPlugins', base_type=TYPE and plugins=[dict(cfg=dict(type='CBAM'), "
            'after=PATTERN)] into one of its elements'
        )
    module = build_model(cfg).get_submodule(component)
    names = default_places(module) if after is None else match(module, after)
    channels = find_channels(module, names, node.get('in_channels'))
    added = count_parameters(*map(_cbam, channels.values())) / 1e6
    total = f'{_cbams(len(names))}, +{added:.2f} M parameters'
    after_option = '' if after is None else f', after={after!r}'
    plugin = f"dict(cfg=dict(type='CBAM'){after_option})"
    kind = node.get('base_type') or node['type']
    if not isinstance(kind, str):
        raise InputError(
            f'{cfg.filename} is a pure Python config, for which no lines can be printed; add '
            f'type=WithPlugins, base_type={kind.__name__} and plugins=[{plugin}] to {component} by '
            'model.merge (see docs/how_it_works/insertion.md)'
        )
    # A list in a config replaces that of its base: repeat the component's own plugins.
    own_plugins = [f'{plugin.to_dict()!r},\n        ' for plugin in node.get('plugins') or ()]
    entries = ''.join([*own_plugins, plugin])
    text = f"dict(type='WithPlugins', base_type='{kind}',\n    plugins=[{entries}])"
    for key in reversed(f'{path}.{component}'.split('.')[1:]):
        text = f'dict({key}={text})'
    # This list replaces that of the base as well.
    imports = (cfg.get('custom_imports') or {}).get('imports', ())
    imports = [imports] if isinstance(imports, str) else list(imports)
    imports += [] if 'cbam_det' in imports else ['cbam_det']
    return f'# {total}\ncustom_imports = dict(imports={imports!r})\nmodel = {text}'


def _cbam(channels: int) -> CBAM:
    """A CBAM as `WithPlugins` inserts it; of fewer than 16 channels, where its ratio is an error,
    one with a single hidden channel.
    """
    return CBAM(channels, min(16, channels))


def _describe_place(
    path: str, name: str, module: nn.Module, shapes: list[tuple[int, ...]], repeats: int
) -> Place:
    channels, height, width = shapes[0]
    cbam = _cbam(channels)
    assert cbam.channel_gate is not None and cbam.spatial_gate is not None
    mlp = 2 * len(cbam.channel_gate.pools) * cbam.channel_gate.fc1.weight.numel()
    per_pixel = cbam.spatial_gate.conv.weight.numel() + 2 * channels  # two products with the map
    multiply_adds = sum(mlp + per_pixel * rows * columns for _, rows, columns in shapes)
    return Place(
        path,
        name,
        type(module).__name__,
        (channels, height, width),
        repeats * len(shapes),
        count_parameters(cbam),
        repeats * multiply_adds,
    )
