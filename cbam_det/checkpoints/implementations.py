"""Convert names and shapes of other implementations to ours and back, by `formats.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..utils.errors import InputError, first_few
from .formats import CONV, DEFAULTS, FC1, FC2, NORM, TRUNK, Form, pools_of
from .keys import Item, is_module, last_norm, renamed, renamer


def from_form(items: dict[str, Item], name: str, form: Form) -> dict[str, Item]:
    """Convert the names and values of a form to ours.

    Raises:
        InputError: a key is unknown, or a weight is missing.
    """
    module = any(map(renamer(_name_pairs(form, module=True)), items))
    items = renamed(
        items,
        renamer(_name_pairs(form, module)),
        lambda key: (
            f'unknown in the form {name}, which has only a CBAM or a plain ResNet; leave such '
            "keys out, or give the file's form"
        ),
    )
    _check_complete(items, name, form)
    return _reshape_weights(items, convs=False, flip=form.pools != DEFAULTS['spatial_pools'])


def to_form(items: dict[str, Item], name: str, form: Form, options: Mapping) -> dict[str, Item]:
    """Convert our names and values to those of a form; the reverse of `from_form`.

    Raises:
        InputError: the form does not support the weights or options, or a weight is missing.
    """
    order = 'channel' if form.options and without_spatial(items) else 'channel-spatial'
    if options.get('order', order) != order:
        own = 'channel-spatial or channel' if form.options else 'channel-spatial'
        raise InputError(f'order={options["order"]!r}: the form {name} has only {own}')
    pools = {*pools_of(options, 'pools')}
    known = {*form.channel_pools}
    if not pools <= known or (pools != known and not form.options):
        own = ' and '.join(form.channel_pools)
        raise InputError(f'pools={options["pools"]!r}: the form {name} has only {own}')
    if order != 'channel' and {*pools_of(options, 'spatial_pools')} != {'avg', 'max'}:
        raise InputError(
            f'spatial_pools={options["spatial_pools"]!r}: the form {name} has only avg and max'
        )
    module = is_module(items)
    wrap = '' if module else form.wrap
    pairs = [(ours, wrap + theirs) for theirs, ours in _name_pairs(form, module)]
    # Rename first: why a key has no name explains more than which keys are missing.
    names = renamed(items, renamer(pairs), lambda key: _reason_without_name(key, name))
    _check_complete(items, name, form)
    for key, item in items.items():
        size = item.value.shape[-1] if key.endswith(CONV + 'weight') else None
        if size and form.kernel_size not in (None, size):
            raise InputError(
                f'{item.source}: kernel_size={size}; the form {name} has only {form.kernel_size}'
            )
    flip = form.pools != pools_of(options, 'spatial_pools')
    return dict(zip(names, _reshape_weights(items, form.convs, flip).values(), strict=True))


def without_spatial(items: Mapping[str, Item]) -> bool:
    """Whether our CBAMs in these items have no spatial gate."""
    return not any('spatial_gate.' in key for key in items)


def _name_pairs(form: Form, module: bool) -> list[tuple[str, str]]:
    """Pairs of its names and ours, for a single module or a ResNet."""
    if module:
        return [(theirs, ours) for ours, theirs in form.module]
    gates = [(form.block + theirs, 'layer{s}.{b}.cbam.' + ours) for ours, theirs in form.module]
    return gates + list(zip(form.trunk, TRUNK, strict=True))


def _expand_template(template: str) -> list[str]:
    """The names that a template with {p} or {n} matches, without num_batches_tracked."""
    values = NORM if '{n}' in template else ('weight', 'bias')
    return list(dict.fromkeys(re.sub(r'\{[np]\}', value, template) for value in values))


def _reason_without_name(key: str, name: str) -> str:
    """Why one of our keys has no name in a form."""
    reasons = {
        '_gate.gain': 'no identity start; give --start paper --config CONFIG as well',
        'channel_gate.fc': 'no biases in its MLP',
        CONV: "no bias in the spatial gate's convolution",
        'spatial_gate.norm.': 'no norm in its spatial gate',
        'spatial_gate.summary.': "no spatial_pools='conv'",
    }
    reason = next((reason for part, reason in reasons.items() if part in key), None)
    return f'the form {name} has {reason or "no such key in a plain ResNet; leave it out"}'


def _check_complete(items: dict[str, Item], name: str, form: Form) -> None:
    """Raise InputError if a weight is missing; num_batches_tracked may be missing."""
    gates = [key for ours, _ in form.module for key in _expand_template(ours)]
    if form.options and without_spatial(items):
        gates = [gate for gate in gates if not gate.startswith('spatial_gate.')]
    expected = gates
    if not is_module(items):
        expected = ['conv1.weight', *_expand_template('bn1.{n}')]
        blocks = {f'layer{stage}.0.' for stage in range(1, 5)}
        blocks |= {match[0] for match in map(re.compile(r'layer\d\.\d+\.').match, items) if match}
        without_cbam = [block for block in sorted(blocks) if f'{block}cbam.{gates[0]}' not in items]
        if without_cbam:
            raise InputError(
                f'no CBAM in {first_few([block[:-1] for block in without_cbam])}, but the form '
                f'{name} has one in every block; give all weights of such a network'
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
            f'missing (in our names): {first_few(missing)}; give all weights of the form {name}'
        )


def _reshape_weights(items: dict[str, Item], convs: bool, flip: bool) -> dict[str, Item]:
    """Reshape MLPs to 1x1 convolutions or back; swap the input maps of spatial convolutions."""
    result = dict(items)
    for key, item in items.items():
        shape = tuple(item.value.shape)
        if key.endswith((FC1 + 'weight', FC2 + 'weight')):
            if shape[2:] not in ((), (1, 1)):
                raise InputError(
                    f'{item.source}: the shape {shape} is not that of a linear layer or a 1x1 '
                    'convolution; give the weights of a CBAM'
                )
            if convs != (len(shape) == 4):
                value = item.value[:, :, None, None] if convs else item.value.flatten(1)
                result[key] = Item(item.source, value, (*item.changes, 'reshaped'))
        elif key.endswith(CONV + 'weight'):
            if len(shape) != 4 or shape[1] != 2:
                raise InputError(
                    f'{item.source}: the shape {shape} does not have 2 input maps; a gate that '
                    "sums them (timm's lcbam) cannot be converted"
                )
            if flip:
                result[key] = Item(item.source, item.value.flip(1), (*item.changes, 'flipped'))
    return result
