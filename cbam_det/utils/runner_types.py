"""Check the types of the config keys that MMEngine's runner takes, by its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union, get_origin

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .class_options import options_of
from .errors import InputError
from .value_types import fits, parts_of, typed, wrong_type

# Types that the runner takes besides its annotations; a pure Python config has the scope None.
WIDER = dict(log_level=int, default_scope=None, work_dir=None)
# Keys that `engine.runner.CheckedRunner` reads besides.
SWITCHES = ('channels_last', 'fast_coco_eval')
# Keys of which 0 and less end in an error of MMEngine or torch that does not name the key.
COUNTS = dict(
    train_cfg=('max_epochs', 'max_iters', 'val_interval'),
    **dict.fromkeys(('train_dataloader', 'val_dataloader', 'test_dataloader'), ('batch_size',)),
)


def check_runner_keys(cfg: Mapping) -> None:
    """Check the types of the keys that MMEngine's runner takes, by its annotations.

    Raises:
        InputError: a value has the wrong type, a number is out of range, or a hook is not a
            dictionary.
    """
    for key, wanted in options_of(Runner)[0].items():
        if (key, cfg.get(key)) == ('resume', 'auto'):  # of `CheckedRunner.load_or_resume`
            continue
        if key in cfg and key not in ('self', 'cfg'):
            wanted = Union[wanted, WIDER.get(key, wanted)]  # noqa: UP007
            outer = [get_origin(part) or part for part in parts_of(wanted)]
            if not any(fits(cfg[key], part) for part in outer):
                raise wrong_type(key, cfg[key], wanted)
    for key in SWITCHES:
        typed(cfg, key, bool, '', False)
    for key, options in COUNTS.items():
        node = cfg.get(key)
        for option in options:
            value = node.get(option) if isinstance(node, Mapping) else None
            if isinstance(value, int) and value < 1:
                raise InputError(f'{key}.{option}={value} is too small; give 1 or more')
    randomness = cfg.get('randomness') or {}
    seed = typed(randomness, 'seed', int | None, 'randomness')
    if seed is not None and not 0 <= seed < 2**32:
        raise InputError(f'randomness.seed={seed} is not a seed; give a number from 0 to 2**32 - 1')
    for option in ('diff_rank_seed', 'deterministic'):
        typed(randomness, option, bool | None, 'randomness')
    for name in cfg.get('default_hooks') or {}:
        typed(cfg['default_hooks'], name, Hook | dict | None, 'default_hooks')
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if not fits(hook, Hook | dict):
            raise wrong_type(f'custom_hooks.{number}', hook, dict)
