"""Find keys in the inner dictionaries of a config that nothing reads and no class refuses.

A class raises a TypeError for a misspelt option. But dictionaries that are read by `.get`, and
`**kwargs` that are passed on to a later call, accept any key. The checks need the keys as they are
written, so they read the raw config, not `utils.run_config`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn

from ..utils.config import kind_of, walk
from ..utils.errors import InputError, near_hint
from ..utils.source_words import source_words
from ..utils.value_types import typed

# The keys that mmengine.optim.DefaultOptimWrapperConstructor reads.
PARAMWISE = (
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
)
MULTIPLIERS = ('lr_mult', 'decay_mult')
UNREAD_UPSTREAM = ('debug',)  # in train_cfg of mmdet's own configs since 2.x
ENV = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')


def check_unknown_options(cfg: Config) -> None:
    """Check the dictionaries for which all allowed keys are known, and the optimizer's multipliers.

    Raises:
        InputError: one has another key; the message names it, and similar or all allowed keys. Or a
            multiplier is negative: torch checks only the rate and decay that it multiplies.
    """
    for path, node, known in _closed(cfg):
        for key in node:
            if key not in known:
                hint = near_hint(str(key), known) or f'; choose from {", ".join(known)}'
                raise InputError(f'{path}.{key} is unknown and would have no effect{hint}')
    for path, node in walk(cfg.get('optim_wrapper'), 'optim_wrapper'):
        for key, value in node.items():
            is_negative = isinstance(value, (int, float)) and value < 0
            if str(key).endswith(MULTIPLIERS) and is_negative:
                raise InputError(f'{path}.{key}={value} would reverse the steps; give 0 or more')


def _closed(cfg: Config) -> Iterator[tuple[str, dict, list[str]]]:
    """The dictionaries for which all allowed keys are known: key path, dictionary, these keys."""
    get = functools.partial(_dictionary, cfg)
    yield from get('env_cfg', ENV)
    yield from get('env_cfg.mp_cfg', _parameters(set_multi_processing))
    yield from get('auto_scale_lr', ('enable', 'base_batch_size'))
    for path, node, _ in get('optim_wrapper.clip_grad', ()):
        values = node.get('type') == 'value'
        clip = nn.utils.clip_grad_value_ if values else nn.utils.clip_grad_norm_
        yield path, node, ['type', *_parameters(clip)[1:]]
    wrapper = cfg.get('optim_wrapper') or {}
    if kind_of(wrapper, 'constructor') not in ('', 'DefaultOptimWrapperConstructor'):
        return
    for path, node, known in get('optim_wrapper.paramwise_cfg', PARAMWISE):
        yield path, node, known
        custom_keys = typed(node, 'custom_keys', dict | None, path) or {}
        for key, options in custom_keys.items():
            if isinstance(options, dict):
                # Others are options of the optimizer, such as betas.
                others = [name for name in options if not near_hint(name, MULTIPLIERS)]
                yield f'{path}.custom_keys.{key}', options, [*MULTIPLIERS, *others]


def _dictionary(
    cfg: Config, path: str, known: Iterable[str]
) -> Iterator[tuple[str, dict, list[str]]]:
    node: object = cfg
    for key in path.split('.'):
        node = node.get(key) if isinstance(node, (Config, dict)) else None
    if isinstance(node, dict):
        yield path, node, list(known)


def _parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)


def hook_options(kind: type) -> list[str] | None:
    """The options of a hook's class; None if it accepts any."""
    known = inspect.signature(kind).parameters
    names = [name for name, option in known.items() if option.kind is not option.VAR_KEYWORD]
    if len(names) == len(known):
        return names
    # It passes other options to `save_checkpoint`, which would refuse them an epoch later.
    if issubclass(kind, CheckpointHook):
        return [*names, *_parameters(Runner.save_checkpoint)[1:]]
    return None


def warn_unread(cfg: Config, model: nn.Module) -> None:
    """Warn of keys that nothing seems to read.

    They are keys of a model's `train_cfg` and `test_cfg` that the source code of its classes does
    not contain, and `custom_keys` of the optimizer that no parameter's name contains.

    Args:
        cfg: a merged config.
        model: its detector.
    """
    kinds = {type(module) for module in model.modules()}
    shared = ['mmdet.models.utils.misc', 'mmcv.ops.nms', 'mmdet.structures.bbox.transforms']
    words = source_words(kinds, shared)
    for path, node in walk(cfg.model, 'model'):
        if re.search(r'(^|\.)(train|test)_cfg(\.|$)', path) and not node.get('type'):
            _warn_unread_keys(path, node, words)
    names = [name for name, _ in model.named_parameters()]
    for path, node, _ in _dictionary(cfg, 'optim_wrapper.paramwise_cfg.custom_keys', ()):
        for key in node:
            if not any(key in name for name in names):
                parts = {part for name in names for part in name.split('.')}
                print_log(
                    f'{path}: no parameter has {key} in its name{near_hint(key, parts)}',
                    level=logging.WARNING,
                )


def _warn_unread_keys(path: str, node: Mapping, words: frozenset[str]) -> None:
    for key in node:
        if str(key) not in words and key not in UNREAD_UPSTREAM:
            print_log(
                f'{path}: nothing reads its key {key}{near_hint(str(key), words, 0.75)}',
                level=logging.WARNING,
            )
