"""Convert names and shapes of other implementations to ours, by `formats.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..utils.errors import InputError, first_few
from .formats import CONV, DEFAULTS, FC1, FC2, NORM, TRUNK, Format
from .keys import Item, is_module, last_norm, renamed, renamer

# By default a detector has no attention in its frozen stages.
EVERY_STAGE = "--cfg-options 'model.backbone.plugins.0.stages=(True,True,True,True)'"


def from_format(items: dict[str, Item], name: str, table: Format) -> dict[str, Item]:
    """Convert the names and values of a format to ours.

    Raises:
        InputError: a key is unknown, or a weight is missing.
    """
    module = any(map(renamer(_name_pairs(table, module=True)), items))
    items = renamed(
        items,
        renamer(_name_pairs(table, module)),
        lambda key: (
            f'unknown in the format {name}, which has only a CBAM or a plain ResNet; leave such '
            "keys out, or give the file's format"
        ),
    )
    _check_complete(items, name, table)
    return _reshape_weights(items, flip=table.pools != DEFAULTS['spatial_pools'])


def without_spatial(items: Mapping[str, Item]) -> bool:
    """Whether our CBAMs in these items have no spatial gate."""
    return not any('spatial_gate.' in key for key in items)


def _name_pairs(table: Format, module: bool) -> list[tuple[str, str]]:
    """Pairs of its names and ours, for a single module or a ResNet."""
    if module:
        return [(theirs, ours) for ours, theirs in table.module]
    gates = [(table.block + theirs, 'layer{s}.{b}.cbam.' + ours) for ours, theirs in table.module]
    return gates + list(zip(table.trunk, TRUNK, strict=True))


def _expand_template(template: str) -> list[str]:
    """The names that a template with {p} or {n} matches, without num_batches_tracked."""
    values = NORM if '{n}' in template else ('weight', 'bias')
    return list(dict.fromkeys(re.sub(r'\{[np]\}', value, template) for value in values))


def _check_complete(items: dict[str, Item], name: str, table: Format) -> None:
    """Raise InputError if a weight is missing; num_batches_tracked may be missing."""
    gates = [key for ours, _ in table.module for key in _expand_template(ours)]
    if table.options and without_spatial(items):
        gates = [gate for gate in gates if not gate.startswith('spatial_gate.')]
    expected = gates
    if not is_module(items):
        expected = ['conv1.weight', *_expand_template('bn1.{n}')]
        blocks = {f'layer{stage}.0.' for stage in range(1, 5)}
        blocks |= {match[0] for match in map(re.compile(r'layer\d\.\d+\.').match, items) if match}
        without_cbam = [block for block in sorted(blocks) if f'{block}cbam.{gates[0]}' not in items]
        if without_cbam:
            raise InputError(
                f'no CBAM in {first_few([block[:-1] for block in without_cbam])}, but the format '
                f'{name} has one in every block; give all weights of such a network (to load them '
                f'into a detector, add {EVERY_STAGE})'
            )
        norms = last_norm(items)
        for block in sorted(blocks):
            expected += [f'{block}cbam.{gate}' for gate in gates]
            for i in range(1, norms + 1):
                expected += [f'{block}conv{i}.weight', *_expand_template(f'{block}bn{i}.{{n}}')]
            if block.endswith('.0.') and (norms == 3 or block != 'layer1.0.'):
                expected += [
                    f'{block}downsample.0.weight',
                    *_expand_template(f'{block}downsample.1.{{n}}'),
                ]
    if missing := [key for key in dict.fromkeys(expected) if key not in items]:
        raise InputError(
            f'missing (in our names): {first_few(missing)}; give all weights of the format {name}'
        )


def _reshape_weights(items: dict[str, Item], flip: bool) -> dict[str, Item]:
    """Reshape MLPs of 1x1 convolutions; swap the input maps of spatial convolutions."""
    result = dict(items)
    for key, item in items.items():
        shape = tuple(item.value.shape)
        if key.endswith((FC1 + 'weight', FC2 + 'weight')):
            if shape[2:] not in ((), (1, 1)):
                raise InputError(
                    f'{item.source}: the shape {shape} is not that of a linear layer or a 1x1 '
                    'convolution; give the weights of a CBAM'
                )
            if len(shape) == 4:
                result[key] = Item(item.source, item.value.flatten(1), ('reshaped',))
        elif key.endswith(CONV + 'weight'):
            if len(shape) != 4 or shape[1] != 2:
                raise InputError(
                    f'{item.source}: the shape {shape} does not have 2 input maps; a gate that '
                    "sums them (timm's lcbam) cannot be converted"
                )
            if flip:
                result[key] = Item(item.source, item.value.flip(1), ('flipped',))
    return result
