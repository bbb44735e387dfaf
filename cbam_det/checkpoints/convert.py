"""Convert CBAM weights of other implementations to ours, and ours between layouts and starts.

`formats.py` lists the implementations.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models.layers.torch_private import copy_module_versions
from ..utils.errors import InputError, first_few
from .formats import ASSUMED_POOLS, CONV, DEFAULTS, FC1, FORMATS, OURS, STARTS, pools_of
from .implementations import from_format, without_spatial
from .keys import Item, cbam_roots, is_module, last_norm, renamer
from .layouts import place_of, with_layout
from .starts import set_start


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        state: the new state dict; unchanged tensors share their memory with the old ones.
        rows: the old name, the new name and the changes of every key: 'kept' or 'mapped', and
            'reshaped', 'flipped' or 'scaled'; 'added' if it has no old name, 'dropped' if it has no
            new one.
        cbams: the config of each CBAM by the name of the module before it.
        notes: assumptions, where weights do not determine an option.
    """

    state: dict[str, Tensor]
    rows: list[tuple[str, str, tuple[str, ...]]]
    cbams: dict[str, dict]
    notes: list[str]

    @property
    def options(self) -> list[dict]:
        """The distinct configs in `cbams`, `dict(type='CBAM', ...)`."""
        cfgs = list(self.cbams.values())
        return [cfg for index, cfg in enumerate(cfgs) if cfg not in cfgs[:index]]


def detect_format(state: Iterable[str]) -> str:
    """Detect the format of a state dict by the keys of its CBAMs.

    Raises:
        InputError: no format matches, or several do.
    """
    keys = [key.removeprefix('module.') for key in state]
    formats = [OURS] if cbam_roots(keys) else []
    for name, table in FORMATS.items():
        gates = [theirs for _, theirs in table.module]
        gates += [table.block + theirs for theirs in gates]
        rename = renamer([(gate, '') for gate in gates])
        if any(rename(key) is not None for key in keys):
            formats.append(name)
    if len(formats) != 1:
        detected = f'several formats, {", ".join(formats)}' if formats else 'no CBAM of any format'
        raise InputError(
            f'the keys ({first_few(keys)}) match {detected}; give the state dict of one module, '
            f'of one ResNet, or of a detector with our CBAM. Formats: {OURS}, {", ".join(FORMATS)}'
        )
    return formats[0]


def convert(
    state: Mapping[str, Tensor],
    source: str | None = None,
    *,
    layout: str | None = None,
    start: str | None = None,
    options: Mapping | None = None,
    drop_classifier: bool = False,
) -> Converted:
    """Convert the state dict of a CBAM, of a ResNet with CBAMs, or of a detector with our CBAMs.

    The result has our names and shapes.

    Args:
        state: the weights by their keys; it is not changed.
        source: the format of `state`, `cbam_det` or one of `FORMATS`; detected by the keys if None.
        layout: where a ResNet keeps our CBAMs: 'inserted' (WithPlugins) or 'plugins' (mmdet's own
            `plugins=`). With None our weights keep their layout, others become 'inserted'.
        start: convert our weights to this start, 'paper' or 'identity'; the outputs stay the same.
        options: the options of our CBAM in the config; the defaults if left out. Weights do not
            determine the order and the pools.
        drop_classifier: leave out the classifier.

    Raises:
        InputError: a key is unknown or missing, the weights do not support the layout or the
            start, or there is nothing to convert.
    """
    if not_tensors := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f'{first_few(not_tensors)}: not a tensor; give a state dict')
    source = source or detect_format(state)
    if source not in (OURS, *FORMATS):
        raise InputError(f'format {source!r} is unknown; choose from {OURS}, {", ".join(FORMATS)}')
    if options and source != OURS:
        raise InputError(f'options={options!r} does not apply to the format {source}; leave it out')

    items = {key: Item(key, value) for key, value in state.items()}
    if all(key.startswith('module.') for key in items):
        items = {key.removeprefix('module.'): item for key, item in items.items()}
    dropped: list[Item] = []
    if drop_classifier:
        classifier_keys = [key for key in items if re.fullmatch(r'(fc|output)\.\w+', key)]
        dropped += [items.pop(key) for key in classifier_keys]

    cbam_options, notes = dict(options or {}), []
    if source != OURS:
        cbam_options = {'norm_cfg': FORMATS[source].norm_cfg}
        items = from_format(items, source, FORMATS[source])
        if without_spatial(items):
            cbam_options['order'] = 'channel'
        if FORMATS[source].options:
            notes.append(ASSUMED_POOLS)
    if start:
        dropped += set_start(items, start, cbam_options)
    if layout == 'plugins' and last_norm(items) == 2 and not is_module(items):
        raise InputError("layout 'plugins': mmdet's BasicBlocks have no plugins=; use 'inserted'")
    if layout or source != OURS:
        items = with_layout(items, layout or 'inserted')

    changes = [(key, _changes(key, item)) for key, item in items.items()]
    if not dropped and all(kinds == ('kept',) for _, kinds in changes):
        raise InputError(
            'nothing to convert: the weights have our names already; load them as they are, or '
            'choose another layout or start'
        )
    converted = OrderedDict((key, item.value) for key, item in items.items())
    if source == OURS:
        copy_module_versions(state, converted)
    return Converted(
        converted,
        [(item.source, '', ('dropped',)) for item in dropped]
        + [(items[key].source, key, kinds) for key, kinds in changes],
        _cbam_configs(items, cbam_options),
        notes,
    )


def _changes(key: str, item: Item) -> tuple[str, ...]:
    """The changes of an item whose name is `key` now."""
    if not item.source:
        return item.changes
    return ('kept' if item.source == key else 'mapped', *item.changes)


def _cbam_configs(items: dict[str, Item], options: Mapping) -> dict[str, dict]:
    """`Converted.cbams`: `options`, updated by what shapes and keys determine."""
    shapes = {key: tuple(item.value.shape) for key, item in items.items()}
    cfgs: dict[str, dict[str, Any]] = {}
    ratios: dict[str, set[int]] = {}  # those that give a CBAM's number of hidden channels
    for root in cbam_roots(items):
        place = ''.join(place_of(items, root)) if root else ''
        cfg = {**options, **{name: pools_of(options, name) for name in ('pools', 'spatial_pools')}}
        gates = [
            gate
            for gate in ('channel', 'spatial')
            if any(f'{root}{gate}_gate.' in key for key in items)
        ]
        cfg['start'] = STARTS[f'{root}{gates[0]}_gate.gain' in shapes]
        if len(gates) == 1:
            cfg['order'] = gates[0]
        if fc1 := shapes.get(root + FC1 + 'weight'):
            ratios[place] = {*range(fc1[1] // (fc1[0] + 1) + 1, fc1[1] // fc1[0] + 1)}
            cfg['mlp_bias'] = root + FC1 + 'bias' in shapes
            if not ratios[place]:
                raise InputError(
                    f'{root}: {fc1[0]} hidden channels of {fc1[1]} match no ratio; use '
                    'weights with C // ratio hidden channels'
                )
        if conv := shapes.get(root + CONV + 'weight'):
            cfg['kernel_size'] = conv[-1]
            cfg['conv_bias'] = root + CONV + 'bias' in shapes
            if root + 'spatial_gate.norm.weight' not in shapes:
                cfg['norm_cfg'] = None
            if root + 'spatial_gate.summary.weight' in shapes:
                cfg['spatial_pools'] = 'conv'
        cfgs[place] = cfg
    common = set.intersection(*ratios.values()) if ratios else set()
    for place, cfg in cfgs.items():
        possible = common or ratios.get(place) or {16}
        preferred = [ratio for ratio in (options.get('ratio'), 16) if ratio in possible]
        cfg['ratio'] = preferred[0] if preferred else max(possible)
    return {
        place: {'type': 'CBAM'}
        | {name: value for name, value in cfg.items() if value != DEFAULTS.get(name, ...)}
        for place, cfg in cfgs.items()
    }
