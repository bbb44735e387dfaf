"""The places of a detector that can take a CBAM, with what one would cost there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

from ..utils.errors import InputError
from .build import build_model, image_channels
from .channels import find_channels
from .costs import regions
from .insertion import ITSELF, match, paper_places, places
from .plugins import CBAM

HOSTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'roi_head.bbox_roi_extractor')


@dataclass(frozen=True)
class Place:
    """A module whose output is a feature map.

    Attributes:
        host: the part of the detector, a path in the config below `model`.
        name: the module in the host, as `after` names it.
        kind: its class.
        shape: C, H, W of its first output.
        maps: outputs for one image: the levels that a head goes over, or the regions.
        parameters: what a CBAM there adds.
        multiply_adds: what a CBAM there adds for all of them: MLP, convolution and both products.
    """

    host: str
    name: str
    kind: str
    shape: tuple[int, int, int]
    maps: int
    parameters: int
    multiply_adds: int


def find_places(cfg: Config, size: int = 256, pattern: str = '*', **options) -> list[Place]:
    """Every place of the detector of `cfg`, seen in a forward on an image of `size` pixels.

    Args:
        cfg: a detector's config.
        size: side of the image in pixels, a multiple of 32.
        pattern: of `HOST:NAME`, `*` for anything: 'backbone:layer*', say.
        options: of the CBAM whose cost is counted (`ratio`, `kernel_size`, `order`, …).

    Raises:
        InputError: no place matches, or the detector does not run on an image.
    """
    model = build_model(cfg)
    model.eval()
    hosts: dict[str, nn.Module] = {}
    for path in HOSTS:
        try:
            host = model.get_submodule(path)
        except AttributeError:
            continue
        hosts.update(
            {f'{path}.{index}': module for index, module in enumerate(host)}
            if isinstance(host, nn.ModuleList)
            else {path: host}
        )
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {}
    for host in hosts.values():
        for module in host.modules():
            module.register_forward_hook(_RecordShapes(shapes))
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(size, size),
            ori_shape=(size, size),
            pad_shape=(size, size),
            batch_input_shape=(size, size),
            scale_factor=(1.0, 1.0),
        )
    )
    with torch.no_grad():
        model.predict(torch.zeros(1, image_channels(cfg), size, size), [sample])
    region_count = regions(model, training=False)
    matching = []
    for path, host in hosts.items():
        for name in places(host):
            module = host if name == ITSELF else host.get_submodule(name)
            if module in shapes and fnmatchcase(f'{path}:{name}', pattern):
                repeats = region_count if path.startswith('roi_head') else 1
                matching.append(
                    _describe_place(path, name, module, shapes[module], repeats, options)
                )
    if not matching:
        raise InputError(f'no place matches {pattern!r}; hosts are {", ".join(hosts)}')
    return matching


class _RecordShapes:
    """A forward hook that notes the shapes of a module's maps, of every pass."""

    def __init__(self, seen: dict[nn.Module, list[tuple[int, ...]]]) -> None:
        self.seen = seen

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            self.seen.setdefault(module, []).append(tuple(output.shape[1:]))


def summed_up(found: Sequence[Place]) -> str:
    """'16 CBAMs, +2.53 M parameters, +0.02 G multiply-adds' of a CBAM at each place."""
    parameters = sum(place.parameters for place in found) / 1e6
    adds = sum(place.multiply_adds for place in found) / 1e9
    count = f'{len(found)} CBAM{"s" * (len(found) != 1)}'
    return f'{count}, +{parameters:.2f} M parameters, +{adds:.2f} G multiply-adds'


def fragment(cfg: Config, host: str, after: str | Sequence[str] | None = None) -> str:
    """The lines of a config that put a CBAM after the modules `after` of `host`, or at the paper's
    places.

    Raises:
        InputError: the detector has no such host or module; the config is a pure Python one.
    """
    node, wrappers = cfg.model, []
    # Trackers and the like have the detector inside.
    while keys := [key for key in ('detector', 'module') if key in node]:
        wrappers.append(keys[0])
        node = node[keys[0]]
    for key in host.split('.'):
        if not isinstance(node, dict) or key not in node:
            raise InputError(f'model has no {host}; hosts are {", ".join(HOSTS)}')
        node = node[key]
    module = build_model(cfg).get_submodule(host)
    names = paper_places(module) if after is None else match(module, after)
    channels = find_channels(module, names, node.get('in_channels'))
    added = sum(_count_parameters(CBAM(count, min(16, count))) for count in channels.values()) / 1e6
    total = f'{len(names)} CBAM{"s" * (len(names) != 1)}, +{added:.2f} M parameters'
    after_option = '' if after is None else f', after={after!r}'
    plugin = f"dict(cfg=dict(type='CBAM'){after_option})"
    kind = node.get('base_type', node['type'])
    if not isinstance(kind, str):
        raise InputError(
            f'{cfg.filename} is a pure Python config, for which no lines are printed; in it, '
            f'model.merge with type=WithPlugins, base_type={kind.__name__} and the plugin {plugin} '
            f'at {host} (docs/how_it_works/insertion.md)'
        )
    # A list in a config replaces that of its base, so the host's own plugins are written again.
    own_plugins = [f'{plugin.to_dict()!r},\n        ' for plugin in node.get('plugins') or ()]
    entries = ''.join([*own_plugins, plugin])
    text = f"dict(type='WithPlugins', base_type='{kind}',\n    plugins=[{entries}])"
    for key in reversed([*wrappers, *host.split('.')]):
        text = f'dict({key}={text})'
    # The imports of the base, which these replace, are written again too.
    imports = (cfg.get('custom_imports') or {}).get('imports', ())
    imports = [imports] if isinstance(imports, str) else list(imports)
    imports += [] if 'cbam_det' in imports else ['cbam_det']
    return f'# {total}\ncustom_imports = dict(imports={imports!r})\nmodel = {text}'


def _describe_place(
    path: str,
    name: str,
    module: nn.Module,
    shapes: list[tuple[int, ...]],
    repeats: int,
    options: dict,
) -> Place:
    channels, height, width = shapes[0]
    # A ratio that the map is too narrow for would be an error there: count the widest that fits.
    ratio = min(options.get('ratio', 16), channels)
    cbam = CBAM(channels, **{**options, 'ratio': ratio})
    multiply_adds = 0
    for _, rows, columns in shapes:
        pixels = rows * columns
        if channel_gate := cbam.channel_gate:
            multiply_adds += (
                len(channel_gate.pools) * 2 * channel_gate.fc1.weight.numel() + channels * pixels
            )
        if spatial_gate := cbam.spatial_gate:
            multiply_adds += (spatial_gate.conv.weight.numel() + channels) * pixels
            if spatial_gate.summary is not None:
                multiply_adds += channels * pixels
    return Place(
        path,
        name,
        type(module).__name__,
        (channels, height, width),
        repeats * len(shapes),
        _count_parameters(cbam),
        repeats * multiply_adds,
    )


def _count_parameters(cbam: nn.Module) -> int:
    return sum(parameter.numel() for parameter in cbam.parameters())
