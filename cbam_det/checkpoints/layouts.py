"""The places of our CBAMs in a ResNet: which module each stands behind, and under which key.

inserted   inserted.layer1/0/bn3.cbam.*   WithPlugins
plugins    layer1.0.cbam.*                mmdet's own `plugins=`
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..utils.errors import InputError, first_few
from .formats import FC2, GATE, LAYOUTS
from .keys import Item, cbam_roots, is_module, last_norm, renamed


def with_layout(items: dict[str, Item], layout: str) -> dict[str, Item]:
    """The CBAMs of our ResNets under the keys of a layout; other keys and places stay.

    Raises:
        InputError: the layout is unknown, or it is not known what a CBAM stands behind.
    """
    if layout not in LAYOUTS:
        raise InputError(f'layout {layout!r} is unknown; choose from {", ".join(LAYOUTS)}')
    if is_module(items):
        return items
    norm = last_norm(items)
    roots = {}
    for root in cbam_roots(items):
        host, name = place_of(items, root)
        roots[root] = root
        if re.fullmatch(rf'layer\d\.\d+\.bn{norm}', name):
            norm_before(items, root)  # mmdet's other positions have the same keys
            if layout == 'inserted':
                place = f'inserted.{name.replace(".", "/")}'
            else:
                place = name.rpartition('.')[0]
            roots[root] = f'{host}{place}.cbam.'

    def rename(key: str) -> str:
        match = GATE.fullmatch(key)
        return roots[match['root']] + match['gate'] if match else key

    return renamed(items, rename, str)


def split_host(items: dict[str, Item]) -> tuple[dict[str, Item], list[Item]]:
    """The keys of the one host that has the CBAMs, without its prefix, and all other items."""
    if is_module(items):
        return items, []
    hosts = {place_of(items, root)[0] for root in cbam_roots(items)}
    if len(hosts) > 1:
        raise InputError(f'CBAMs in {first_few(sorted(hosts))}: other forms are of one ResNet')
    host = ''.join(hosts)
    inside = {key.removeprefix(host): item for key, item in items.items() if key.startswith(host)}
    return inside, [item for key, item in items.items() if not key.startswith(host)]


def place_of(items: Iterable[str], root: str) -> tuple[str, str]:
    """The host ('' or 'backbone.') of one of our CBAMs, and the module that it stands behind."""
    if match := re.fullmatch(r'((?:.+\.)?)inserted\.([^.]+)\.cbam\.', root):
        neighbours = re.escape(root.removesuffix('cbam.')) + r'(?!cbam\.)'
        host, name = match[1], match[2].replace('/', '.')
    elif match := re.fullmatch(r'((?:.+\.)?)(layer\d\.\d+)\.cbam\.', root):
        neighbours = re.escape(match[1] + match[2]) + r'\.(?!cbam\.|conv\d\.|bn\d\.|downsample\.)'
        host, name = match[1], f'{match[2]}.bn{last_norm(items)}'
    else:
        raise InputError(f'{root}: unknown; known are inserted.PLACE.cbam and layer1.0.cbam')
    if unknown := next((key for key in items if re.match(neighbours, key)), None):
        raise InputError(
            f'{unknown}: unknown beside {root}, so that it is not known what the CBAM reads; only '
            'one plugin in a plain block can be converted'
        )
    return host, name


def norm_before(items: dict[str, Item], root: str) -> tuple[str, str]:
    """The keys of the weight and the bias, (C,) each, of the norm before a CBAM of C channels."""
    host, name = place_of(items, root)
    keys = f'{host}{name}.weight', f'{host}{name}.bias'
    shapes = [tuple(items[key].value.shape) if key in items else () for key in keys]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise InputError(
            f'{root}: {host}{name} is no norm with weight and bias, and what stands behind no '
            'such norm cannot be converted'
        )
    for key, axis in ((FC2 + 'weight', 0), ('spatial_gate.summary.weight', 1)):
        if (item := items.get(root + key)) and item.value.shape[axis] != shapes[0][0]:
            raise InputError(
                f'{item.source}: {item.value.shape[axis]} channels, and {keys[0]} has '
                f'{shapes[0][0]}: this CBAM stands at another place of its block'
            )
    return keys
