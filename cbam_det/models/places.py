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
from .build import build_model
from .insertion import ITSELF, RecordOutput, match, paper_places, places
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
        parameters: what a CBAM there adds.
        multiply_adds: what a CBAM there adds for one map: MLP, convolution and both products.
    """

    host: str
    name: str
    kind: str
    shape: tuple[int, int, int]
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
    outputs: dict[nn.Module, Tensor] = {}
    for host in hosts.values():
        for module in host.modules():
            module.register_forward_hook(RecordOutput(outputs, module))
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
        model.predict(torch.zeros(1, 3, size, size), [sample])
    matching = [
        _describe_place(path, name, module, outputs[module], options)
        for path, host in hosts.items()
        for name in places(host)
        if _is_map(outputs.get(module := host if name == ITSELF else host.get_submodule(name)))
        and fnmatchcase(f'{path}:{name}', pattern)
    ]
    if not matching:
        raise InputError(f'no place matches {pattern!r}; hosts are {", ".join(hosts)}')
    return matching


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
    if after is None:
        paper_places(module)
    else:
        match(module, after)
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
    return f'custom_imports = dict(imports={imports!r})\nmodel = {text}'


def _is_map(output: object) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4


def _describe_place(
    path: str, name: str, module: nn.Module, output: Tensor, options: dict
) -> Place:
    channels, height, width = output.shape[1:]
    # A ratio that the map is too narrow for would be an error there: count the widest that fits.
    ratio = min(options.get('ratio', 16), channels)
    cbam = CBAM(channels, **{**options, 'ratio': ratio})
    pixels = height * width
    multiply_adds = 0
    if channel_gate := cbam.channel_gate:
        multiply_adds += (
            len(channel_gate.pools) * 2 * channel_gate.fc1.weight.numel() + channels * pixels
        )
    if spatial_gate := cbam.spatial_gate:
        multiply_adds += (spatial_gate.conv.weight.numel() + channels) * pixels
        if spatial_gate.summary is not None:
            multiply_adds += channels * pixels
    parameters = sum(parameter.numel() for parameter in cbam.parameters())
    shape = channels, height, width
    return Place(path, name, type(module).__name__, shape, parameters, multiply_adds)
