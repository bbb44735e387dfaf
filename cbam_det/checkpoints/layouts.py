"""The places of our CBAMs in a ResNet, and the keys of their weights in both layouts.

inserted   inserted.layer1/0/bn3.cbam.*   WithPlugins
plugins    layer1.0.cbam.*                mmdet's own `plugins=`
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..utils.errors import InputError
from .formats import FC2, GATE, LAYOUTS
from .keys import Item, cbam_roots, is_module, last_norm, renamed


def with_layout(items: dict[str, Item], layout: str) -> dict[str, Item]:
    """Rename the keys of our CBAMs in ResNets to a layout; other keys do not change.

    Raises:
        InputError: the layout is unknown, or the module before a CBAM is unknown.
    """
    if layout not in LAYOUTS:
        raise InputError(f'layout {layout!r} is unknown; choose from {", ".join(LAYOUTS)}')
    if is_module(items):
        return items
    norm = last_norm(items)
    roots = {}
    for root in cbam_roots(items):
        prefix, name = place_of(items, root)
        roots[root] = root
        if re.fullmatch(rf'layer\d\.\d+\.bn{norm}', name):
            norm_before(items, root)  # mmdet's other positions have the same keys
            if layout == 'inserted':
                place = f'inserted.{name.replace(".", "/")}'
            else:
                place = name.rpartition('.')[0]
            roots[root] = f'{prefix}{place}.cbam.'

    def rename(key: str) -> str:
        match = GATE.fullmatch(key)
        return roots[match['root']] + match['gate'] if match else key

    return renamed(items, rename, str)


def place_of(items: Iterable[str], root: str) -> tuple[str, str]:
    """The backbone's prefix ('' or 'backbone.') and the name of the module before a CBAM."""
    if match := re.fullmatch(r'((?:.+\.)?)inserted\.([^.]+)\.cbam\.', root):
        neighbours = re.escape(root.removesuffix('cbam.')) + r'(?!cbam\.)'
        prefix, name = match[1], match[2].replace('/', '.')
    elif match := re.fullmatch(r'((?:.+\.)?)(layer\d\.\d+)\.cbam\.', root):
        neighbours = re.escape(match[1] + match[2]) + r'\.(?!cbam\.|conv\d\.|bn\d\.|downsample\.)'
        prefix, name = match[1], f'{match[2]}.bn{last_norm(items)}'
    else:
        raise InputError(
            f'{root}: this key of a CBAM is unknown; only inserted.PLACE.cbam and layer1.0.cbam '
            'can be converted'
        )
    if unknown := next((key for key in items if re.match(neighbours, key)), None):
        raise InputError(
            f'{unknown}: unknown key beside {root}, so the input of the CBAM is unknown; only a '
            'single plugin in a block can be converted'
        )
    return prefix, name


def norm_before(items: dict[str, Item], root: str) -> tuple[str, str]:
    """The keys of weight and bias, (C,) each, of the norm before a CBAM with C channels."""
    prefix, name = place_of(items, root)
    keys = f'{prefix}{name}.weight', f'{prefix}{name}.bias'
    shapes = [tuple(items[key].value.shape) if key in items else () for key in keys]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise InputError(
            f'{root}: {prefix}{name} is not a norm with weight and bias; only a CBAM directly '
            'after such a norm can be converted'
        )
    for key, axis in ((FC2 + 'weight', 0), ('spatial_gate.summary.weight', 1)):
        if (item := items.get(root + key)) and item.value.shape[axis] != shapes[0][0]:
            raise InputError(
                f'{item.source} has {item.value.shape[axis]} channels, but {keys[0]} has '
                f'{shapes[0][0]}: this CBAM is at another place in its block, which cannot be '
                'converted'
            )
    return keys
