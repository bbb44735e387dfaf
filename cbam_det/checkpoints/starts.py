"""Convert weights between the paper start and the identity start with bitwise equal outputs.

docs/how_it_works/identity.md derives the factors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..utils.errors import InputError
from .formats import CONV, FACTORS, FC1, STARTS, pools_of
from .keys import Item, cbam_roots
from .layouts import norm_before


def set_start(items: dict[str, Item], start: str, options: Mapping) -> list[Item]:
    """Convert our CBAMs in `items` to a start, in place; returns the items that were removed.

    Raises:
        InputError: a CBAM has this start already, or no weights give the same outputs.
    """
    order = options.get('order', 'channel-spatial')
    if start not in STARTS:
        raise InputError(f'start={start!r} is unknown; choose from {", ".join(STARTS)}')
    if order not in FACTORS:
        raise InputError(f'order={order!r} is unknown; choose from {", ".join(FACTORS)}')
    pools = {
        'channel': pools_of(options, 'pools'),
        'spatial': pools_of(options, 'spatial_pools'),
    }
    dropped = []
    for root in cbam_roots(items):
        gains = _check_cbam(items, root, start, order, pools)
        conv, summary = root + CONV + 'weight', f'{root}spatial_gate.summary.weight'
        weight, bias = norm_before(items, root)
        fc1_factor, spatial_factor, norm_factor = FACTORS[order]
        pooled_input = summary if summary in items else conv
        factors = {
            root + FC1 + 'weight': fc1_factor,
            pooled_input: spatial_factor,
            weight: norm_factor,
            bias: norm_factor,
        }
        for key in factors.keys() & items.keys():
            items[key] = _scale_exactly(items[key], factors[key] ** (1 if start == 'paper' else -1))
        for gain in gains:
            if start == 'paper':
                dropped.append(items.pop(gain))
            else:
                items[gain] = Item('', items[weight].value.new_tensor(2.0), ('added',))
    return dropped


def _check_cbam(
    items: dict[str, Item], root: str, start: str, order: str, pools: dict[str, tuple[str, ...]]
) -> list[str]:
    """Check that a CBAM has the other start and these options; returns the keys of its gains."""
    if not root:
        raise InputError(
            'a single CBAM: the conversion also scales the norm before it; give the weights of '
            'the whole network'
        )
    gates = [gate for gate in pools if any(key.startswith(f'{root}{gate}_gate.') for key in items)]
    if {*gates} != {*order.replace('parallel', 'channel-spatial').split('-')}:
        raise InputError(
            f'{root} has a {" and a ".join(gates)} gate, which does not fit order={order!r}; '
            "give the model's order"
        )
    if not_homogeneous := [gate for gate in gates if 'lse' in pools[gate]]:
        raise InputError(
            f"{root}: with pool 'lse' in the {not_homogeneous[0]} gate, the other start cannot "
            'give the same outputs; keep the start of the checkpoint'
        )
    gains = [f'{root}{gate}_gate.gain' for gate in gates]
    if any((gain in items) == (start == 'identity') for gain in gains):
        raise InputError(f'{root} has the {start} start already; leave out start={start!r}')
    conv, has_summary = root + CONV + 'weight', f'{root}spatial_gate.summary.weight' in items
    if conv in items:
        maps = items[conv].value.shape[1]
        if maps != len(pools['spatial']) or has_summary != (pools['spatial'] == ('conv',)):
            raise InputError(
                f'{conv} has {maps} input maps, which does not fit spatial_pools='
                f"{pools['spatial']}; give the model's spatial_pools"
            )
    return gains


def _scale_exactly(item: Item, factor: float) -> Item:
    scaled = item.value * factor
    if not torch.equal(scaled / factor, item.value):
        raise InputError(
            f'{item.source}: {factor:g} times its values cannot be stored in {scaled.dtype}; '
            'convert the weights to float32 first'
        )
    return Item(item.source, scaled, (*item.changes, 'scaled'))
