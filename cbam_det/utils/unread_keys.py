"""Top-level keys of a config that have no effect: those of mmdet 2.x, and those that nothing reads.

MMEngine silently ignores keys that it does not know. Such a key has an effect only if the config
uses it as a variable, or, for a key of a base, if a config that inherits from the base uses it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from .errors import InputError

# The keys that MMEngine's runners, mmdet's tools and, in the last line, `CheckedRunner` read; other
# keys are a config's variables.
# fmt: off
RUNNER_KEYS = (
    *list(inspect.signature(Runner.__init__).parameters)[1:-1],  # neither self nor cfg
    'sync_bn', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy',
    'compile', 'activation_checkpointing', 'efficient_conv_bn_eval',
    'tta_model', 'tta_pipeline', 'custom_imports',
    'channels_last', 'fast_coco_eval', 'preflight',
)
# fmt: on
# Keys of mmdet 2.x, with `train_dataset` of its YOLOX config, and their places in 3.x.
OLD_KEYS = dict(
    data='train_dataloader, val_dataloader, test_dataloader',
    train_dataset='train_dataloader.dataset',
    val_dataset='val_dataloader.dataset',
    test_dataset='test_dataloader.dataset',
    optimizer='optim_wrapper.optimizer',
    optimizer_config='optim_wrapper.clip_grad, optim_wrapper.accumulative_counts',
    lr_config='param_scheduler',
    momentum_config='param_scheduler',
    runner='train_cfg.max_epochs or train_cfg.max_iters',
    total_epochs='train_cfg.max_epochs',
    total_iters='train_cfg.max_iters',
    workflow='train_cfg and val_cfg',
    evaluation='val_evaluator and train_cfg.val_interval',
    checkpoint_config='default_hooks.checkpoint',
    log_config='default_hooks.logger and visualizer.vis_backends',
    resume_from='resume=True and load_from, or --resume CHECKPOINT',
    auto_resume='resume=True, or --resume',
    fp16="optim_wrapper.type='AmpOptimWrapper', or --amp",
    seed='randomness.seed',
    deterministic='randomness.deterministic',
    dist_params='env_cfg.dist_cfg',
    mp_start_method='env_cfg.mp_cfg.mp_start_method',
    opencv_num_threads='env_cfg.mp_cfg.opencv_num_threads',
)
DATA_KEYS = frozenset(('train', 'val', 'test', 'samples_per_gpu', 'workers_per_gpu'))


def refuse_old_keys(cfg: Config) -> None:
    """Refuse keys that mmdet 2.x reads and MMEngine does not.

    Raises:
        InputError: the config has such keys, and their values are not at their places in 3.x, which
            the message names.
    """
    old = [key for key in unused_keys(cfg) if key in OLD_KEYS and _is_old(cfg, key)]
    if any(_is_missing(cfg, key) for key in old):
        name = Path(cfg.filename).name if cfg.filename else 'the config'
        places = ', '.join(f'{key} (now {OLD_KEYS[key]})' for key in old)
        raise InputError(
            f'{name} has keys of mmdet 2.x that would have no effect: {places}; move their '
            'values to these places, or delete them'
        )


def _is_old(cfg: Config, key: str) -> bool:
    """Whether a key is not empty, and not a variable of 3.x with the same name."""
    value = cfg[key]
    if key == 'data':
        return isinstance(value, dict) and not DATA_KEYS.isdisjoint(value)
    return bool(value)


def _is_missing(cfg: Config, key: str) -> bool:
    """Whether the value of an old key is missing at one of its new places."""
    for place in re.findall(r'[\w.]+', OLD_KEYS[key]):
        node: object = cfg
        for name in place.split('.'):
            node = node.get(name) if isinstance(node, (Config, dict)) else None
        if _holds(node, cfg[key]):
            return False
    return True


def _holds(node: object, value: object) -> bool:
    """Whether `node` has `value`; a merged dictionary may have other keys too."""
    if isinstance(node, dict) and isinstance(value, dict):
        return all(key in node and _holds(node[key], value[key]) for key in value)
    return node == value


def unused_keys(cfg: Config) -> list[str]:
    """The top-level keys that neither MMEngine nor the config itself uses.

    A base may have a variable that only some of its configs use, so a key of a base is included
    only if it is one of mmdet 2.x. The same holds for all keys of a dumped config, in which no key
    uses another, and of one whose file is gone, as that of `Config.fromstring`.
    """
    path = Path(cfg.filename or '')
    is_readable = path.suffix == '.py' and path.is_file()
    own = _parse(path.read_text(encoding='utf-8')) if is_readable else None
    set_in_file = _set_names(own) if own else set(cfg)
    used_in_file = _used_names(own) if own else set()
    bases = _parse(cfg.text) if own else None
    used_anywhere = _used_names(bases) if bases else set(cfg)
    read = list(_containers([cfg[key] for key in cfg if key in RUNNER_KEYS]))
    inherits = bool(own) and '_base_' in set_in_file
    unused = []
    for key in cfg:
        if key in RUNNER_KEYS or key.startswith('_'):
            continue
        in_file = key in set_in_file
        if key not in OLD_KEYS and not (in_file and inherits):
            continue
        # A base has already used its own value, not the one that this config sets.
        if key not in (used_in_file if in_file else used_anywhere) and cfg[key] not in read:
            unused.append(key)
    return unused


def _containers(node: object) -> Iterator[object]:
    """Every non-empty dictionary and list inside a value, including the value itself."""
    if isinstance(node, (dict, list, tuple)) and node:
        yield node
        for child in node.values() if isinstance(node, dict) else node:
            yield from _containers(child)


def _parse(text: str) -> ast.Module | None:
    """The statements of a config, or of a config and its bases, each after a line with its path."""
    lines = ['' if line.startswith('/') else line for line in text.splitlines()]
    try:
        return ast.parse('\n'.join(lines))
    except SyntaxError:
        return None


def _set_names(module: ast.Module) -> set[str]:
    return {
        node.id
        for node in ast.walk(module)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {
        target.value.id
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
    }


def _used_names(module: ast.Module) -> set[str]:
    """The names whose values others use: `x` and `_base_.x`, but not the x of `x['a'] = 1`."""
    names = set()
    for statement in module.body:
        parts: list[ast.AST] = [statement]
        if isinstance(statement, ast.Assign):
            parts = [statement.value]
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            parts = [*statement.value.args, *statement.value.keywords]  # x.update(a=1)
        for node in (node for part in parts for node in ast.walk(part)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
    return names
