"""Files of weights: read as weights alone, wherever they are from, and written whole.

A pickle can run any code when it is read. What is allowed beside tensors and plain values is listed
here; a file with anything else is refused before that is made.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor

from ..utils.errors import InputError, first_few
from ..utils.files import atomic_write
from .integrity import Unreadable, check_download, check_file, damaged_download, downloaded_file

WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
TRUE_VALUES = ('1', 'y', 'yes', 'true')  # as torch reads them
NO_WEIGHTS_ONLY = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
UNSAFE = (
    'more than weights is pickled in it, which could run any code when it is read); where you '
    f'trust its source, put {WEIGHTS_ONLY}=0 before the command'
)


class Unsafe(InputError):
    """A file holds more than weights, and was not read."""


def read_checkpoint(source: str, description: str, remedy: str) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU.

    Args:
        source: a file, or a URL or name that MMEngine knows (https://, torchvision://, timm://).
        description: what it is, for the message.
        remedy: what to do where it cannot be read, for the message.

    Raises:
        Unreadable: it is damaged, or not there.
        InputError: more than weights is pickled in it.
    """
    try:
        return CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')
    except Unsafe:
        raise InputError(f'{description} cannot be loaded ({UNSAFE}') from None
    except Exception as error:  # a broken pickle raises anything
        if isinstance(error, InputError) and not isinstance(error, Unreadable):
            raise
        fault = f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]
        if isinstance(error, Unreadable):
            fault, remedy = error.fault, error.remedy or remedy
        elif 'PytorchStreamReader' in str(error):
            fault = 'it is cut off or damaged'
        raise Unreadable(f'{description} cannot be loaded ({fault}); {remedy}') from None


def guard_mmengine() -> None:
    """Let MMEngine read no checkpoint that could run code, in the whole process.

    Whoever imports cbam_det has it: `init_detector`, `DetInferencer`, `load_from`, `resume` and
    `init_cfg` of mmdet's own tools read weights by `CheckpointLoader`, which by itself reads a file
    unsafely, with a warning, where reading it safely fails. What a program reads by `torch.load`
    itself is left alone.
    """
    load = CheckpointLoader.load_checkpoint.__func__
    if hasattr(load, '__wrapped__'):
        return

    @functools.wraps(load)
    def guarded(cls: type, filename: str, *args: Any, **options: Any) -> Any:
        with _weights_only():
            try:
                check_download(filename)
                content = load(cls, filename, *args, **options)
                check_download(filename)  # which may have been fetched just now
                return content
            except Unreadable as error:
                raise Unreadable(
                    f'{filename} cannot be loaded ({error.fault}); '
                    f'{error.remedy or "fetch it again"}',
                    error.fault,
                    error.remedy,
                ) from None
            except Exception as error:
                if 'weights_only' in str(error) or 'weights only' in str(error).lower():
                    raise Unsafe(f'{filename} cannot be loaded ({UNSAFE}') from None
                file = downloaded_file(filename)
                if file is not None and file.is_file() and not isinstance(error, MemoryError):
                    fault = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
                    raise damaged_download(file, fault) from None
                raise

    CheckpointLoader.load_checkpoint = classmethod(guarded)
    CheckpointLoader.register_scheme(prefixes='', loader=_load_local, force=True)


def _load_local(filename: str, map_location: Any = None) -> Any:
    """In the place of MMEngine's reader of files, which would say how to read one unsafely."""
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{filename} can not be found.')  # MMEngine's words
    check_file(path)
    old = digit_version(torch.__version__) < digit_version('2.4.0')
    return torch.load(path, map_location=map_location, weights_only=not (old or _is_trusted()))


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict, list[str]]:
    """A file's state dict, its plain `meta`, and the names of all else in it.

    Raises:
        InputError: it is missing or unreadable, or holds no weights; torch is older than 2.4.
    """
    path = Path(path)
    if not hasattr(torch.serialization, 'add_safe_globals'):
        raise InputError(f'torch {torch.__version__} cannot read {path} safely; use 2.4 or newer')
    if not path.is_file():
        raise InputError(f'no checkpoint {path}; give a file that torch.save wrote')
    content = read_checkpoint(str(path), f'the checkpoint {path}', 'fetch it again')
    content = content if isinstance(content, dict) else {}
    state, meta = content.get('state_dict', content), content.get('meta')
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        contents = first_few([str(key) for key in content]) or 'nothing'
        raise InputError(f'{path} holds no weights, but {contents}; give one with a state_dict')
    if state is content:
        return state, {}, []
    meta = meta if isinstance(meta, dict) else {}
    plain_meta = {key: value for key, value in meta.items() if _is_plain(value)}
    return state, plain_meta, [str(key) for key in content if key not in ('state_dict', 'meta')]


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def check_free(path: str | Path) -> None:
    """Raises InputError where `path` exists, or its folder does not."""
    path = Path(path)
    if path.exists():
        raise InputError(f'{path} exists; remove it or give another name')
    if not path.parent.is_dir():
        raise InputError(f'no folder {path.parent} for {path.name}; make it or give another')


def write_file(path: str | Path, state: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint whole or not at all, and over no other file; see `check_free`."""
    path = Path(path)
    check_free(path)
    with atomic_write(path) as part:
        torch.save(dict(meta=meta, state_dict=state), part)


def read_weights_only() -> None:
    """Let torch read nothing but weights from a pickle, in the whole process from now on.

    A command calls it first, as MMEngine reads checkpoints by itself, and reads a file unsafely,
    with a warning, where reading it safely fails; torch's own variable closes that way. A user who
    has set it to 0 trusts the source of the files. Before torch 2.4 torch cannot be told what is
    allowed, and nothing changes.

    Raises:
        InputError: torch's opposite variable is set, with which no file could be read.
    """
    if digit_version(torch.__version__) < digit_version('2.4.0'):
        return
    os.environ.setdefault(WEIGHTS_ONLY, '1')
    if not _is_trusted() and os.environ.get(NO_WEIGHTS_ONLY) in TRUE_VALUES:
        value = os.environ[NO_WEIGHTS_ONLY]
        raise InputError(
            f'{NO_WEIGHTS_ONLY}={value} in the environment would let checkpoints run code, and '
            f'they are read as weights alone; take it out: unset {NO_WEIGHTS_ONLY}'
        )
    known = torch.serialization.get_safe_globals()
    missing = [allowed for allowed in _allowed_globals() if allowed not in known]
    torch.serialization.add_safe_globals(missing)


def _is_trusted() -> bool:
    """Whether the user trusts the source of the files: torch's variable is set, and not to 1."""
    return os.environ.get(WEIGHTS_ONLY, '1') not in TRUE_VALUES


@contextmanager
def _weights_only() -> Iterator[None]:
    """As `read_weights_only`, and a program that uses the package reads its own files as before."""
    previous = os.environ.get(WEIGHTS_ONLY)
    try:
        read_weights_only()
        yield
    finally:
        if previous is None:
            os.environ.pop(WEIGHTS_ONLY, None)


@functools.cache
def _allowed_globals() -> list[Any]:
    """What checkpoints hold beside weights: MMEngine's logs, numbers of numpy, options of a run.

    MMEngine's own list has `getattr`, by which a file can reach any function.
    """
    rebuilders: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    # numpy 2 has them elsewhere, and a run may go on where numpy is another.
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    renamed = [
        _with_module(function, module)
        for function in rebuilders
        for module in modules
        if module != function.__module__
    ]
    # timm's and many other training scripts save their options; it takes attributes alone.
    plain_types = [argparse.Namespace, slice, HistoryBuffer, np.ndarray, np.dtype]
    number_types = [type(np.dtype(kind)) for kind in ('uint32', 'int64', 'float64')]
    return [*renamed, *plain_types, *number_types, *rebuilders, _history_buffer_getattr]


def _with_module(function: Callable, module: str) -> Callable:
    """The function under the name that it has in another module."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__ = module
    call.__name__ = call.__qualname__ = function.__name__
    return call


def _history_buffer_getattr(owner: type, name: str) -> object:
    """Stands for the `getattr` by which a HistoryBuffer's own methods are pickled in it."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'{name} of {owner} is asked for')
    return getattr(owner, name)


_history_buffer_getattr.__module__ = 'builtins'
_history_buffer_getattr.__name__ = _history_buffer_getattr.__qualname__ = 'getattr'
