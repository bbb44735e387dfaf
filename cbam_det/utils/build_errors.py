"""Turn an error while something is built from a config into one line that names its place.

MMEngine builds objects by nested calls, each with a part of the config. The frames of the traceback
therefore show which part failed: the innermost frame with a dictionary of the config, or with an
object whose class the config names.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmengine.registry import MODELS, Registry
from torch.utils.data import DataLoader

from .class_options import options_of
from .config import kind_of, registered_class, registered_names, walk
from .errors import InputError, first_few, near_hint
from .failed_checks import FailedCheck, failed_check
from .value_types import fits, kind_word, shortened, words_of

# The methods of MMEngine's Runner, and the keys of the config that each of them reads.
READ_BY = dict(
    setup_env=('env_cfg',),
    set_randomness=('randomness',),
    build_log_processor=('log_processor',),
    build_logger=('log_level',),
    build_visualizer=('visualizer',),
    build_model=('model', 'data_preprocessor'),
    wrap_model=('model_wrapper_cfg',),
    register_hooks=('default_hooks', 'custom_hooks'),
    build_train_loop=('train_cfg', 'train_dataloader'),
    build_val_loop=('val_cfg', 'val_dataloader', 'val_evaluator'),
    build_test_loop=('test_cfg', 'test_dataloader', 'test_evaluator'),
    build_optim_wrapper=('optim_wrapper',),
    scale_lr=('auto_scale_lr',),
    build_param_scheduler=('param_scheduler',),
    _check_scheduler_cfg=('param_scheduler',),
    _init_model_weights=('model',),
    turn_on_activation_checkpointing=('activation_checkpointing',),
    turn_on_efficient_conv_bn_eval=('efficient_conv_bn_eval',),
    load_or_resume=('load_from', 'resume'),
    _maybe_compile=('compile',),
    call_hook=('default_hooks', 'custom_hooks'),
    run_epoch=('train_dataloader',),
)
TRACEBACK = '--cfg-options log_level=DEBUG shows the traceback'


@contextmanager
def build_errors(cfg: Mapping, *keys: str) -> Iterator[None]:
    """Raise an error while something is built from `cfg` as a one-line `InputError`.

    Args:
        cfg: the config.
        keys: the keys of the config that are built; none if MMEngine's Runner builds.

    Raises:
        InputError: in place of any other error, see `build_error`; or one that was raised, with
            the path of what was built where it names none.
    """
    try:
        yield
    except InputError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        path = _place(frames, {key: cfg[key] for key in keys if key in cfg})[0]
        if type(error) is InputError and path and f'{path.partition(".")[0]}.' not in str(error):
            raise InputError(f'{path}: {error}') from error
        raise
    except Exception as error:
        raise build_error(error, cfg, *keys) from error


def build_error(error: Exception, cfg: Mapping, *keys: str) -> InputError:
    """Describe an error while something is built from `cfg` in one line with its key path.

    With `log_level='DEBUG'` in the config the traceback is printed too.
    """
    error = _raised_in_hook(error)
    if str(cfg.get('log_level')).upper() == 'DEBUG':
        traceback.print_exception(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    text = error.args[0] if error.args and not isinstance(error, OSError) else error
    message = ' '.join(str(text).split())
    keys = keys or _keys_of(frames, message)
    path, node, kinds = _place(frames, {key: cfg[key] for key in keys or cfg if key in cfg})
    path = path or (keys[0] if keys else '')
    if message.startswith('DataLoader.'):
        kinds = [DataLoader]
    options = {name: of for kind in kinds for name, of in options_of(kind)[0].items()}
    if explained := _known_fault(message, path, node, kinds, options, frames):
        return explained
    message = message.replace('Cannot find None in', 'a type is misspelt: Cannot find it in')[:400]
    check = failed_check(error)
    if check and check.permitted and (refused := _refused_value(check, path, node, cfg)):
        return refused
    if check and not message:
        message = f'it must satisfy {check.text}' if check.text else ''
    suspect = _type_key(node, frames, message) or _suspect(node, options, message, check)
    if suspect is not None:
        where = f'{path}.{suspect}={shortened(node[suspect])}'
        explains = re.search(r'\b(must|should|expected|only)\b', message)
        if check and check.text and suspect in check.names and not explains:
            message += f'; it must satisfy {check.text}'
        if suspect in options and not fits(node[suspect], options[suspect]):
            wanted = words_of(options[suspect])
            return InputError(f'{where} is {kind_word(node[suspect])}; give {wanted} ({message})')
    elif len(quoted := _named_values(node, path, message)) == 1:
        where = quoted[0]
    elif path in cfg and not isinstance(cfg[path], Mapping):
        where = f'{path}={shortened(cfg[path])}'
    else:
        where = f'{path} ({kind_of(dict(type=kinds[-1]))})' if kinds else path
    if not isinstance(error, (ValueError, AssertionError)) or not message:
        message = f'{type(error).__name__}: {message}'
    return InputError(f'{where or "this config"} cannot be used: {message}; {TRACEBACK}')


def _known_fault(
    message: str,
    path: str,
    node: Mapping,
    kinds: Sequence[Callable],
    options: Mapping,
    frames: Sequence[FrameType],
) -> InputError | None:
    """The error for a message of Python or MMEngine whose cause is known; None for others."""
    if unknown := re.search(r"got an unexpected keyword argument '(\w+)'", message):
        for inner, part in walk(node, path):
            if unknown[1] in part:
                return _unknown_option(inner, unknown[1], message, part, options)
    if message.startswith('`cfg` or `default_args` must contain the key "type"'):
        return InputError(f'{path} has no type; give the name of a class')
    if absent := _absent_options(message, path, node, kinds):
        return absent
    if refused := _refused_frozen_stages(frames, path, node):
        return refused
    if missing := re.match(r'(.+) is not in the (.+?) registry', message):
        key = next((key for key in ('type', *node) if str(node.get(key)) == missing[1]), 'type')
        near = near_hint(missing[1], _registered(frames)) or '; check its spelling'
        return InputError(f'{path}.{key}={missing[1]!r} is not in the {missing[2]} registry{near}')
    return None


def _raised_in_hook(error: Exception) -> Exception:
    """The error; if MMEngine raised a TypeError of a hook again, the original with its frames."""
    inner = error.__context__
    if isinstance(inner, TypeError) and str(error).startswith(f'{inner} in <'):
        return inner
    return error


def _unknown_option(
    path: str, key: str, message: str, node: Mapping, options: Mapping
) -> InputError:
    if kind := registered_class(MODELS, node.get('type')):
        options = options_of(kind)[0]
    known = {*options, *node} - {key, 'type', 'self', '_scope_'}
    near = near_hint(key, sorted(map(str, known)))
    remedy = '; remove it, or give _delete_=True beside the type if a base config sets it'
    return InputError(f'{path}.{key}: {message}{near or remedy}'.lstrip('.'))


def _absent_options(
    message: str, path: str, node: Mapping, kinds: Sequence[Callable]
) -> InputError | None:
    """The error for options without a default that a class needs and its config lacks."""
    match = re.match(
        r'(\w+)(\.__init__)?\(\) missing \d+ required [\w-]+ arguments?: (.+)', message
    )
    names = re.findall(r"'(\w+)'", match[3]) if match else []
    options = options_of(kinds[0])[0] if kinds else {}
    # MMEngine builds its loops without a registry. Other calls are none of the config's.
    of_config = {*options} or ({*names} if match and match[2] else set())
    if not match or not names or not {*names} <= of_config - {*node}:
        return None
    types = [words_of(options[name]) for name in names if options.get(name, Any) is not Any]
    wanted = f' ({"; ".join(types)})' if len(types) == len(names) else ''
    paths = first_few([f'{path}.{name}' for name in names])
    return InputError(
        f'{path} has no {first_few(names)}, which {match[1]} needs; give {paths}{wanted}'
    )


def _refused_frozen_stages(
    frames: Sequence[FrameType], path: str, node: Mapping
) -> InputError | None:
    """The error for more frozen stages than a backbone has.

    mmdet's backbones do not check the number; many use it only when they are set to training.
    """
    owners = [
        frame.f_locals['self'] for frame in frames if frame.f_code.co_name == '_freeze_stages'
    ]
    if not owners or 'frozen_stages' not in node:
        return None
    largest = -1
    with contextlib.suppress(Exception):  # the same error again
        for number in range(100):
            owners[0].frozen_stages = number
            owners[0]._freeze_stages()
            largest = number
    value = shortened(node['frozen_stages'])
    return InputError(
        f'{path}.frozen_stages={value} cannot be used; give a whole number from -1 (no stage) to '
        f'{largest}'
    )


def _keys_of(frames: Sequence[FrameType], message: str) -> tuple[str, ...]:
    """The keys that the outermost known method of the Runner reads, narrowed by an inner method."""
    names = [frame.f_code.co_name for frame in frames]
    if called := re.match(r'Runner\.(\w+)\(\)', message):  # called with wrong arguments
        names.append(called[1])
    keys = next((READ_BY[name] for name in names if name in READ_BY), ())
    if keys == READ_BY['run_epoch'] and 'call_hook' in names:
        keys = READ_BY['call_hook']
    for method, ending in (('build_dataloader', '_dataloader'), ('build_evaluator', '_evaluator')):
        if method in names and any(key.endswith(ending) for key in keys):
            return tuple(key for key in keys if key.endswith(ending))
    return keys


def _place(frames: Sequence[FrameType], parts: Mapping) -> tuple[str, Mapping, list[Callable]]:
    """The innermost part of the config that failed.

    Returns:
        Its key path, its dictionary, and the classes that were being built, from inside to outside.
    """
    kinds: list[Callable] = []
    nodes = dict(walk(parts))
    nodes.pop('', None)
    for frame in reversed(frames):
        given, owner = frame.f_locals.get('cfg'), frame.f_locals.get('self')
        if 'registry' in frame.f_locals and isinstance(given, Mapping):
            kinds += filter(callable, [frame.f_locals.get('obj_cls')])
            path = _most_alike(given, nodes)
            if path is not None:
                return path, nodes[path], kinds
        classes = [] if owner is None else [base.__name__ for base in inspect.getmro(type(owner))]
        paths = [
            path
            for path, node in nodes.items()
            if (kind_of(node, 'base_type') or kind_of(node)) in classes
        ]
        if len(paths) == 1:
            return paths[0], nodes[paths[0]], [*kinds, type(owner)]
    alone = [part for part in parts.values() if isinstance(part, Mapping)]
    return '', alone[0] if len(parts) == len(alone) == 1 else {}, kinds


def _most_alike(given: Mapping, nodes: Mapping[str, Mapping]) -> str | None:
    """The path of the node that `given` was copied from: the same type, and most values equal."""
    alike = {
        path: sum(_same(given.get(key), value) for key, value in node.items())
        for path, node in nodes.items()
        if _same(node.get('type'), given.get('type')) and set(node) <= set(given)
    }
    return max(alike, key=lambda path: alike[path]) if alike else None


def _same(first: object, second: object) -> bool:
    try:
        return bool(first == second)
    except Exception:  # arrays, and other objects that cannot be compared
        return False


def _type_key(node: Mapping, frames: Sequence[FrameType], message: str) -> str | None:
    """The key whose value should be a type but is not: `type`, or another that names a class."""
    if not message.startswith('type must be'):
        return None
    kinds = [frame.f_locals['obj_type'] for frame in frames if 'obj_type' in frame.f_locals]
    keys = [key for key in node if kinds and _same(node[key], kinds[-1])]
    return min(keys, key=lambda key: not str(key).endswith('type'), default=None)


def _refused_value(check: FailedCheck, path: str, node: Mapping, cfg: Mapping) -> InputError | None:
    """The error for the only value of a dictionary that a check refused; None without one."""
    places = [path] if path in cfg and _same(cfg[path], check.value) else []
    places += [
        f'{place}.{key}'
        for place, part in walk(node, path)
        for key, value in part.items()
        if type(value) is type(check.value) and _same(value, check.value)
    ]
    if len(places) != 1:
        return None
    permitted = first_few([repr(value) for value in check.permitted], 9)
    return InputError(f'{places[0]}={shortened(check.value)} is unknown; give one of {permitted}')


def _named_values(node: Mapping, path: str, message: str) -> list[str]:
    """The key paths with the strings inside a dictionary that the message quotes."""
    return [
        f'{place}.{key}={shortened(value)}'
        for place, part in walk(node, path)
        for key, value in part.items()
        if isinstance(value, str) and not str(key).endswith('type') and repr(value) in message
    ]


def _suspect(
    node: Mapping, options: Mapping, message: str, check: FailedCheck | None
) -> str | None:
    """The only key with the wrong type, or that the message or the failed check names, or None."""
    if 'scope_name' in message and '_scope_' in node:
        return '_scope_'
    keys = [key for key in node if key not in ('type', '_scope_')]
    wrong = [key for key in keys if key in options and not fits(node[key], options[key])]
    named = [key for key in keys if re.search(rf'\b{re.escape(str(key))}\b', message)]
    checked = [key for key in keys if check and key in check.names]
    for suspects in (
        [key for key in wrong if key in named],
        named,
        checked,
        [key for key in wrong if node[key] is not None],
    ):
        if len(suspects) == 1:
            return suspects[0]
    return None


def _registered(frames: Sequence[FrameType]) -> list[str]:
    """The names in the innermost registry of a build and in its parents."""
    values = [frame.f_locals.get('registry') for frame in frames]
    registries = [value for value in values if isinstance(value, Registry)]
    return registered_names(registries[-1]) if registries else []
