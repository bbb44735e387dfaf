"""CBAM weights between other implementations and this one, and between its two starts.

A form is a table of names with the shapes that go with them. Every conversion passes through one
set of names, torchvision's with `layer{s}.{b}.cbam.` for the CBAM of block {b} of stage {s}. This
file imports torch alone.

    authors    Jongchan/attention-module, MODELS/cbam.py and model_resnet.py
    pytorchcv  pytorchcv 0.0.74, models/cbamresnet.py
    timm       timm 1.0.31, layers/cbam.py: create_model(..., block_args=dict(attn_layer='cbam'))
    mmyolo     mmyolo's models/plugins/cbam.py, in a ResNet as mmdet's plugins= names it
    tutorial   luuuyi/CBAM.PyTorch, model/resnet_cbam.py, both of its versions
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.errors import InputError, some
from .formats import (
    CONV,
    DEFAULTS,
    FACTORS,
    FC1,
    FC2,
    FORMS,
    GATE,
    LAYOUTS,
    NORM,
    OURS,
    STARTS,
    TOKENS,
    TRUNK,
    UNSEEN,
    Form,
)


@dataclass
class Item:
    """A value on its way: its key at the start ('' if new) and what was done to it."""

    source: str
    value: Tensor
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """The outcome of a conversion.

    Attributes:
        state: the new state dict; values that did not change share their memory with the old ones.
        rows: of every key its old name, its new one and its kinds: 'kept' or 'mapped', and
            'reshaped', 'flipped', 'scaled'; 'added' without an old name, 'dropped' without a new.
        cbams: for our form, the config of each CBAM by the module that it stands behind.
        notes: what the weights do not show and was taken for granted.
    """

    state: dict[str, Tensor]
    rows: list[tuple[str, str, tuple[str, ...]]]
    cbams: dict[str, dict]
    notes: list[str]

    @property
    def options(self) -> list[dict]:
        """The configs that `cbams` has, `dict(type='CBAM', ...)`, each once."""
        cfgs = list(self.cbams.values())
        return [cfg for index, cfg in enumerate(cfgs) if cfg not in cfgs[:index]]


def detect(state: Iterable[str]) -> str:
    """The form of a state dict, by the keys of its CBAMs.

    Raises:
        InputError: none, or those of several forms.
    """
    keys = [key.removeprefix('module.') for key in state]
    found = [OURS] if _roots(keys) else []
    for name, form in FORMS.items():
        gates = [*form.module, *((ours, form.block + theirs) for ours, theirs in form.module)]
        rename = _renamer([(theirs, '') for _, theirs in gates])
        found += [name] if any(rename(key) is not None for key in keys) else []
    if len(found) != 1:
        what = f'several forms, {", ".join(found)}' if found else 'no CBAM of any form'
        raise InputError(
            f'the keys ({some(keys)}) show {what}; give the state dict of one module, of one '
            f'ResNet, or of a detector with our CBAM. Forms: {OURS}, {", ".join(FORMS)}'
        )
    return found[0]


def to_paper(state: Mapping[str, Tensor], options: Mapping) -> Converted:
    """Our identity form -> our paper form, the same function; see `convert`."""
    return convert(state, OURS, start='paper', options=options)


def to_identity(state: Mapping[str, Tensor], options: Mapping) -> Converted:
    """Our paper form -> our identity form, the same function; see `convert`."""
    return convert(state, OURS, start='identity', options=options)


def convert(
    state: Mapping[str, Tensor],
    source: str | None = None,
    target: str = OURS,
    *,
    layout: str | None = None,
    start: str | None = None,
    options: Mapping | None = None,
    drop_classifier: bool = False,
) -> Converted:
    """Convert the state dict of a CBAM, of a ResNet with CBAMs, or of a detector of ours.

    Args:
        state: key -> value; neither is changed.
        source: its form, `cbam_det` or one of `FORMS`; found out by the keys if None.
        target: the form wanted.
        layout: of our ResNets, 'inserted' (WithPlugins) or 'plugins' (mmdet's own). If None, ours
            stay as they are and others become 'inserted'.
        start: turn ours into this form, 'paper' or 'identity', the same function.
        options: our CBAM's options in the config, with the module's defaults where left out. The
            weights show neither the order nor the pools.
        drop_classifier: leave out the classifier.

    Raises:
        InputError: a key is unexplained or missing, the target cannot express the weights, or
            there is nothing to convert.
    """
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f'{some(odd)}: no tensor; give a state dict')
    source = source or detect(state)
    for name in (source, target):
        if name not in (OURS, *FORMS):
            raise InputError(f'form {name!r} is unknown; choose from {OURS}, {", ".join(FORMS)}')
    items = {key: Item(key, value) for key, value in state.items()}
    if all(key.startswith('module.') for key in items):
        items = {key.removeprefix('module.'): item for key, item in items.items()}
    gone = [key for key in items if drop_classifier and re.fullmatch(r'(fc|output)\.\w+', key)]
    dropped = [items.pop(key) for key in gone]
    given, notes = dict(options or {}), []
    for option, value, form in (
        ('start', start, target if source != OURS else OURS),
        ('layout', layout, target),
        ('options', options, source),
    ):
        if value and form != OURS:
            raise InputError(f'{option}={value!r} is not for the form {form}; leave it out')
    if source != OURS:
        given = {'norm_cfg': FORMS[source].norm_cfg}
        items = _read(items, source, FORMS[source])
    elif start:
        dropped += _set_start(items, start, given)
    if target != OURS:
        items, outside = _of_one_host(_lay_out(items, 'plugins'))
        dropped += outside
        if source == OURS and not options:
            notes.append(UNSEEN)
        items = _write(items, target, FORMS[target], given)
    elif layout == 'plugins' and _last(items) == 2 and not _is_module(items):
        raise InputError("layout 'plugins': mmdet has no plugins= in BasicBlocks; use 'inserted'")
    elif layout or source != OURS:
        items = _lay_out(items, layout or 'inserted')
    if start and source != OURS:
        _set_start(items, start, given)
    rows = [(item.source, '', ('dropped',)) for item in dropped]
    for key, item in items.items():
        name = () if not item.source else ('kept',) if item.source == key else ('mapped',)
        rows.append((item.source, key, name + item.kinds))
    if source == target != OURS or all(row[2] == ('kept',) for row in rows):
        raise InputError(f'nothing to do: the weights are of the form {target} as wanted')
    new = OrderedDict((key, item.value) for key, item in items.items())
    if source == target and hasattr(state, '_metadata'):
        new._metadata = state._metadata  # versions, by which other modules mend old weights
    return Converted(new, rows, _configs(items, given) if target == OURS else {}, notes)


def _renamer(pairs: Iterable[tuple[str, str]]) -> Callable[[str], str | None]:
    """A function that renames a key by the first pair of templates that fits, or returns None."""
    compiled = []
    for old, new in pairs:
        parts = re.split(r'\{(\w+)\}', old)
        parts[::2] = map(re.escape, parts[::2])
        parts[1::2] = (f'(?P<{name}>{TOKENS[name]})' for name in parts[1::2])
        compiled.append((re.compile(''.join(parts)), new))

    def rename(key: str) -> str | None:
        for pattern, new in compiled:
            if match := pattern.fullmatch(key):
                found = match.groupdict()
                if 'b1' in found:
                    found['b'] = int(found['b1']) - 1
                elif 'b' in found:
                    found['b1'] = int(found['b']) + 1
                return new.format(**found)
        return None

    return rename


def _pairs(form: Form, module: bool) -> list[tuple[str, str]]:
    """Its names and ours, of a single module or of a ResNet."""
    if module:
        return [(theirs, ours) for ours, theirs in form.module]
    gates = [(form.block + theirs, 'layer{s}.{b}.cbam.' + ours) for ours, theirs in form.module]
    return gates + list(zip(form.trunk, TRUNK, strict=True))


def _expand(template: str) -> list[str]:
    """The names that a template with {p} or {n} stands for, without the count of batches."""
    values = NORM if '{n}' in template else ('weight', 'bias')
    return list(dict.fromkeys(re.sub(r'\{[np]\}', value, template) for value in values))


def _renamed(
    items: dict[str, Item], rename: Callable[[str], str | None], fault: Callable[[str], str]
) -> dict[str, Item]:
    """Items by their new names; `fault` says why a key has none."""
    names = {key: rename(key) for key in items}
    if unexplained := [key for key, name in names.items() if name is None]:
        raise InputError(f'{some(unexplained)}: {fault(unexplained[0])}')
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(f'several keys become {some(twice)}; leave in one of them')
    return {names[key]: item for key, item in items.items()}


def _roots(keys: Iterable[str]) -> list[str]:
    """Where our CBAMs stand, each with the dot at its end; '' for a single module."""
    return list(dict.fromkeys(match['root'] for match in map(GATE.fullmatch, keys) if match))


def _is_module(keys: Iterable[str]) -> bool:
    return _roots(keys) == ['']


def _last(keys: Iterable[str]) -> int:
    """The number of a block's last norm: 3 in bottlenecks, 2 in BasicBlocks."""
    return 3 if any(re.search(r'(^|\.)layer\d\.\d+\.conv3\.', key) for key in keys) else 2


def _read(items: dict[str, Item], name: str, form: Form) -> dict[str, Item]:
    """Its names and values -> ours."""
    module = any(map(_renamer(_pairs(form, module=True)), items))
    items = _renamed(
        items,
        _renamer(_pairs(form, module)),
        lambda key: (
            f'unexplained in the form {name} of a CBAM or of a plain ResNet; leave such '
            'keys out, or name the form that the file has'
        ),
    )
    _check_whole(items, name, form)
    return _shaped(items, convs=False, flip=form.pools != DEFAULTS['spatial_pools'])


def _write(items: dict[str, Item], name: str, form: Form, options: Mapping) -> dict[str, Item]:
    """Our names and values -> its; the reverse of `_read`."""
    if options.get('order', 'channel-spatial') != 'channel-spatial':
        raise InputError(f'order={options["order"]!r}: the form {name} has channel-spatial alone')
    for option in ('pools', 'spatial_pools'):
        if {*_pools(options, option)} != {'avg', 'max'}:
            raise InputError(f'{option}={options[option]!r}: the form {name} has avg and max alone')
    module = _is_module(items)
    wrap = '' if module else form.wrap
    pairs = [(ours, wrap + theirs) for theirs, ours in _pairs(form, module)]
    # Names first: the reason of a key without a place says more than what is missing.
    names = _renamed(items, _renamer(pairs), lambda key: _no_place(key, name))
    _check_whole(items, name, form)
    for key, item in items.items():
        size = item.value.shape[-1] if key.endswith(CONV + 'weight') else None
        if size and form.kernel_size not in (None, size):
            raise InputError(
                f'{item.source}: kernel_size={size}; the form {name} has {form.kernel_size} alone'
            )
    flip = form.pools != _pools(options, 'spatial_pools')
    return dict(zip(names, _shaped(items, form.convs, flip).values(), strict=True))


def _no_place(key: str, name: str) -> str:
    reasons = {
        '_gate.gain': "no identity start; convert with start='paper' too",
        'channel_gate.fc': 'no biases in its MLP',
        CONV: "no bias in the spatial gate's convolution",
        'spatial_gate.norm.': 'no norm in its spatial gate',
        'spatial_gate.summary.': "no spatial_pools='conv'",
    }
    reason = next((reason for part, reason in reasons.items() if part in key), None)
    return f'the form {name} has {reason or "such keys in no plain ResNet; leave them out"}'


def _check_whole(items: dict[str, Item], name: str, form: Form) -> None:
    """Refuse a network or module that lacks a weight (BatchNorm's count of batches is none)."""
    gates = [leaf for ours, _ in form.module for leaf in _expand(ours)]
    wanted = gates
    if not _is_module(items):
        wanted = ['conv1.weight', *_expand('bn1.{n}')]
        blocks = {f'layer{stage}.0.' for stage in range(1, 5)}
        blocks |= {match[0] for match in map(re.compile(r'layer\d\.\d+\.').match, items) if match}
        bare = [block for block in sorted(blocks) if f'{block}cbam.{gates[0]}' not in items]
        if bare:
            raise InputError(
                f'no CBAM in {some([block[:-1] for block in bare])}, and the form {name} has one '
                'in every block; give the whole weights of such a network'
            )
        for block in sorted(blocks):
            wanted += [f'{block}cbam.{gate}' for gate in gates]
            for i in range(1, _last(items) + 1):
                wanted += [f'{block}conv{i}.weight', *_expand(f'{block}bn{i}.{{n}}')]
            if block.endswith('.0.') and (_last(items) == 3 or block != 'layer1.0.'):
                wanted += [f'{block}downsample.0.weight', *_expand(f'{block}downsample.1.{{n}}')]
    if missing := [key for key in dict.fromkeys(wanted) if key not in items]:
        raise InputError(
            f'missing (by our names): {some(missing)}; give all weights of the form {name}'
        )


def _shaped(items: dict[str, Item], convs: bool, flip: bool) -> dict[str, Item]:
    """MLPs as 1x1 convolutions or not, and spatial convolutions with their two maps exchanged."""
    shaped = dict(items)
    for key, item in items.items():
        shape = tuple(item.value.shape)
        if key.endswith((FC1 + 'weight', FC2 + 'weight')):
            if shape[2:] not in ((), (1, 1)):
                raise InputError(f'{item.source}: {shape} is neither a linear nor a 1x1 layer')
            if convs != (len(shape) == 4):
                value = item.value.reshape(*shape[:2], *(1, 1) * convs)
                shaped[key] = Item(item.source, value, (*item.kinds, 'reshaped'))
        elif key.endswith(CONV + 'weight'):
            if len(shape) != 4 or shape[1] != 2:
                raise InputError(
                    f'{item.source}: {shape} does not read 2 maps; where they are summed to one '
                    "(timm's lcbam) it is another function"
                )
            if flip:
                shaped[key] = Item(item.source, item.value.flip(1), (*item.kinds, 'flipped'))
    return shaped


def _place(items: Iterable[str], root: str) -> tuple[str, str]:
    """The host ('' or 'backbone.') of one of our CBAMs, and the module that it stands behind."""
    if match := re.fullmatch(r'((?:.+\.)?)inserted\.([^.]+)\.cbam\.', root):
        beside = re.escape(root.removesuffix('cbam.')) + r'(?!cbam\.)'
        host, name = match[1], match[2].replace('/', '.')
    elif match := re.fullmatch(r'((?:.+\.)?)(layer\d\.\d+)\.cbam\.', root):
        beside = re.escape(match[1] + match[2]) + r'\.(?!cbam\.|conv\d\.|bn\d\.|downsample\.)'
        host, name = match[1], f'{match[2]}.bn{_last(items)}'
    else:
        raise InputError(f'{root}: unknown; known are inserted.PLACE.cbam and layer1.0.cbam')
    if other := next((key for key in items if re.match(beside, key)), None):
        raise InputError(
            f'{other}: unknown beside {root}, so that it is not known what the CBAM reads; only '
            'one plugin in a plain block can be converted'
        )
    return host, name


def _norm(items: dict[str, Item], root: str) -> tuple[str, str]:
    """The weight and the bias, (C,) each, of the norm right before a CBAM of C channels."""
    host, name = _place(items, root)
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


def _lay_out(items: dict[str, Item], layout: str) -> dict[str, Item]:
    """Our ResNets' CBAMs by a layout; other keys and places stay."""
    if layout not in LAYOUTS:
        raise InputError(f'layout {layout!r} is unknown; choose from {", ".join(LAYOUTS)}')
    if _is_module(items):
        return items
    roots = {}
    for root in _roots(items):
        host, name = _place(items, root)
        roots[root] = root
        if re.fullmatch(rf'layer\d\.\d+\.bn{_last(items)}', name):
            _norm(items, root)  # mmdet's other positions have the same keys
            place = f'inserted.{name.replace(".", "/")}', name.rpartition('.')[0]
            roots[root] = f'{host}{place[LAYOUTS.index(layout)]}.cbam.'

    def rename(key: str) -> str:
        match = GATE.fullmatch(key)
        return roots[match['root']] + match['gate'] if match else key

    return _renamed(items, rename, str)


def _of_one_host(items: dict[str, Item]) -> tuple[dict[str, Item], list[Item]]:
    """The keys of the host that has the CBAMs, without its prefix, and all others."""
    if _is_module(items):
        return items, []
    hosts = {_place(items, root)[0] for root in _roots(items)}
    if len(hosts) > 1:
        raise InputError(f'CBAMs in {some(sorted(hosts))}: other forms are of one ResNet')
    host = ''.join(hosts)
    inside = {key.removeprefix(host): item for key, item in items.items() if key.startswith(host)}
    return inside, [item for key, item in items.items() if not key.startswith(host)]


def _pools(options: Mapping, option: str) -> tuple[str, ...]:
    pools = options.get(option, DEFAULTS[option])
    return (pools,) if isinstance(pools, str) else tuple(pools)


def _set_start(items: dict[str, Item], start: str, options: Mapping) -> list[Item]:
    """Turn our CBAMs, in place, into the other form, and return what that leaves out.

    docs/identity.md derives the factors.
    """
    order = options.get('order', 'channel-spatial')
    for option, value, known in (('start', start, STARTS), ('order', order, FACTORS)):
        if value not in known:
            raise InputError(f'{option}={value!r} is unknown; choose from {", ".join(known)}')
    pools = dict(channel=_pools(options, 'pools'), spatial=_pools(options, 'spatial_pools'))
    dropped = []
    for root in _roots(items):
        if not root:
            raise InputError(
                'a single CBAM: the factor of a start goes into the norm before it; give the '
                'weights of the whole network'
            )
        gates = [gate for gate in pools if any(k.startswith(f'{root}{gate}_gate.') for k in items)]
        if {*gates} != {*order.replace('parallel', 'channel-spatial').split('-')}:
            raise InputError(f'{root}: it has a {" and a ".join(gates)} gate, not order={order!r}')
        if lse := [gate for gate in gates if 'lse' in pools[gate]]:
            raise InputError(
                f"{root}: the {lse[0]} gate's pool 'lse' is not homogeneous; no weights make both "
                'starts the same function'
            )
        gains = [f'{root}{gate}_gate.gain' for gate in gates]
        if any((gain in items) == (start == 'identity') for gain in gains):
            raise InputError(f'{root}: is of the {start} form already')
        conv, summary = root + CONV + 'weight', f'{root}spatial_gate.summary.weight'
        if conv in items:
            maps, learned = items[conv].value.shape[1], summary in items
            if maps != len(pools['spatial']) or learned != (pools['spatial'] == ('conv',)):
                raise InputError(f'{conv}: reads {maps}, which is not {pools["spatial"]}')
        weight, bias = _norm(items, root)
        first, second, affine = FACTORS[order]
        reads = summary if summary in items else conv
        factors = {root + FC1 + 'weight': first, reads: second, weight: affine, bias: affine}
        for key in factors.keys() & items.keys():
            items[key] = _scaled(items[key], factors[key] ** (1 if start == 'paper' else -1))
        for gain in gains:
            if start == 'paper':
                dropped.append(items.pop(gain))
            else:
                items[gain] = Item('', items[weight].value.new_tensor(2.0), ('added',))
    return dropped


def _scaled(item: Item, factor: float) -> Item:
    value = item.value * factor
    if not torch.equal(value / factor, item.value):
        raise InputError(
            f'{item.source}: {factor:g} times it leaves the range of {value.dtype}; convert the '
            'weights to float32 first'
        )
    return Item(item.source, value, (*item.kinds, 'scaled'))


def _configs(items: dict[str, Item], given: Mapping) -> dict[str, dict]:
    """`Converted.cbams`: the options that shapes and keys show, over those that are `given`."""
    shapes = {key: tuple(item.value.shape) for key, item in items.items()}
    cfgs = {}
    for root in _roots(items):
        cfg = {**given, 'ratio': set()}
        cfg |= {name: _pools(given, name) for name in ('pools', 'spatial_pools')}
        gates = [g for g in ('channel', 'spatial') if any(f'{root}{g}_gate.' in k for k in items)]
        cfg['start'] = STARTS[f'{root}{gates[0]}_gate.gain' in shapes]
        if len(gates) == 1:
            cfg['order'] = gates[0]
        if fc1 := shapes.get(root + FC1 + 'weight'):
            # All ratios that leave that hidden width.
            cfg['ratio'] = {*range(fc1[1] // (fc1[0] + 1) + 1, fc1[1] // fc1[0] + 1)}
            cfg['mlp_bias'] = root + FC1 + 'bias' in shapes
            if not cfg['ratio']:
                raise InputError(f'{root}: no ratio leaves {fc1[0]} hidden channels of {fc1[1]}')
        if conv := shapes.get(root + CONV + 'weight'):
            cfg['kernel_size'] = conv[-1]
            cfg['conv_bias'] = root + CONV + 'bias' in shapes
            if root + 'spatial_gate.norm.weight' not in shapes:
                cfg['norm_cfg'] = None
            if root + 'spatial_gate.summary.weight' in shapes:
                cfg['spatial_pools'] = 'conv'
        cfgs[''.join(_place(items, root)) if root else ''] = cfg
    ratios = [cfg['ratio'] for cfg in cfgs.values() if cfg['ratio']]
    common = set.intersection(*ratios) if ratios else set()
    for cfg in cfgs.values():
        fitting = common or cfg['ratio'] or {16}
        cfg['ratio'] = next((r for r in (given.get('ratio'), 16) if r in fitting), max(fitting))
    return {
        place: {'type': 'CBAM'}
        | {name: value for name, value in cfg.items() if value != DEFAULTS.get(name, ...)}
        for place, cfg in cfgs.items()
    }
