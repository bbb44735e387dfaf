"""Read weights without running code from the file, and write them atomically.

Reading a pickle can run any code. This file lists what is allowed besides tensors and plain values;
a file with anything else is rejected before such an object is created.
"""

from __future__ import annotations

import argparse
import functools
import io
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
from torch import Tensor

from ..utils.errors import InputError, first_few
from ..utils.files import atomic_write
from .integrity import Unreadable, check_download, check_file, damaged_download, downloaded_file

WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
TRUE_VALUES = ('1', 'y', 'yes', 'true')  # those that torch accepts
NO_WEIGHTS_ONLY = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
CAN_ALLOW_TYPES = hasattr(torch.serialization, 'add_safe_globals')  # torch 2.4 or newer


class Unsafe(InputError):
    """A file contains more than weights and was not read; `description` is the file's."""

    def __init__(self, description: str) -> None:
        super().__init__(
            f'{description} cannot be loaded (it contains more than weights, which could run any '
            f'code when it is read); if you trust its source, put {WEIGHTS_ONLY}=0 before the '
            'command'
        )


def read_checkpoint(source: str, description: str, remedy: str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        source: a file, or a URL or name that MMEngine can load (https://, torchvision://, timm://).
        description: describes the checkpoint in error messages.
        remedy: what to do if it cannot be read, for the error message.

    Raises:
        Unreadable: it is damaged or missing.
        Unsafe: it contains more than weights.
    """
    try:
        return CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')
    except Unsafe:
        raise Unsafe(description) from None
    except Exception as error:  # a damaged pickle can raise any exception
        if isinstance(error, InputError) and not isinstance(error, Unreadable):
            raise
        fault = f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]
        if isinstance(error, Unreadable):
            fault, remedy = error.fault, error.remedy or remedy
        elif 'PytorchStreamReader' in str(error):
            fault = 'it is truncated or damaged'
        raise Unreadable(f'{description} cannot be loaded ({fault}); {remedy}') from None


def guard_mmengine() -> None:
    """Make MMEngine reject checkpoints that could run code, in the whole process.

    Importing cbam_det calls this. `init_detector`, `DetInferencer`, `load_from`, `resume` and
    `init_cfg` read weights by MMEngine's `CheckpointLoader`, which retries unsafely with only a
    warning if the safe way fails. Direct calls of `torch.load` are not changed.
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
                check_download(filename)  # of a file that was downloaded just now
                return content
            except Unreadable as error:
                raise Unreadable(
                    f'{filename} cannot be loaded ({error.fault}); '
                    f'{error.remedy or "download it again"}',
                    error.fault,
                    error.remedy,
                ) from None
            except Exception as error:
                is_unsafe = 'weights_only' in str(error) or 'weights only' in str(error).lower()
                if is_unsafe and not isinstance(error, OSError):  # whose message has the path
                    raise Unsafe(filename) from None
                file = downloaded_file(filename)
                if file is not None and file.is_file() and not isinstance(error, MemoryError):
                    fault = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
                    raise damaged_download(file, fault) from None
                raise

    CheckpointLoader.load_checkpoint = classmethod(guarded)
    CheckpointLoader.register_scheme(prefixes='', loader=_load_local, force=True)


def _load_local(filename: str, map_location: Any = None) -> Any:
    """Replaces MMEngine's loader of local files, whose error explains how to read one unsafely."""
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{filename} can not be found.')  # as MMEngine's loader does
    check_file(path)
    weights_only = CAN_ALLOW_TYPES and not _is_trusted()
    return torch.load(path, map_location=map_location, weights_only=weights_only)


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict, list[str]]:
    """Read a file; returns its state dict, the plain values of `meta`, and the other keys.

    Raises:
        InputError: it is missing or unreadable, or has no weights; or torch is older than 2.4.
    """
    path = Path(path)
    if not CAN_ALLOW_TYPES:
        raise InputError(f'torch {torch.__version__} cannot read {path} safely; use 2.4 or newer')
    if not path.is_file():
        raise InputError(f'the checkpoint {path} does not exist; give a file that torch.save wrote')
    content = read_checkpoint(str(path), f'the checkpoint {path}', 'download it again')
    content = content if isinstance(content, dict) else {}
    state, meta = content.get('state_dict', content), content.get('meta')
    is_dict = isinstance(state, dict)
    if not is_dict or not any(isinstance(value, Tensor) for value in state.values()):
        contents = first_few([str(key) for key in content]) or 'nothing'
        raise InputError(
            f'{path} has no weights, only {contents}; give a checkpoint with a state_dict'
        )
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
    """Raise InputError if `path` exists or its folder does not."""
    path = Path(path)
    if path.exists():
        raise InputError(f'{path} exists; remove it or give another name')
    if not path.parent.is_dir():
        raise InputError(
            f'the folder {path.parent} does not exist; create it or give another path than {path}'
        )


def write_file(path: str | Path, state: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint atomically to a path where no file exists; see `check_free`."""
    path = Path(path)
    check_free(path)
    content = io.BytesIO()  # of a path, torch reports a full disk as a RuntimeError
    torch.save(dict(meta=meta, state_dict=state), content)
    with atomic_write(path) as part:
        part.write_bytes(content.getbuffer())


def read_weights_only() -> None:
    """Make torch read only weights from pickles, in the whole process from now on.

    Commands call this first. MMEngine retries unsafely if it cannot read a checkpoint safely;
    torch's environment variable TORCH_FORCE_WEIGHTS_ONLY_LOAD prevents this. A user who trusts the
    files sets it to 0. Before torch 2.4 nothing changes, since allowed types cannot be added.

    Raises:
        InputError: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which would allow any code.
    """
    if not CAN_ALLOW_TYPES:
        return
    os.environ.setdefault(WEIGHTS_ONLY, '1')
    if not _is_trusted() and os.environ.get(NO_WEIGHTS_ONLY) in TRUE_VALUES:
        value = os.environ[NO_WEIGHTS_ONLY]
        raise InputError(
            f'{NO_WEIGHTS_ONLY}={value} in the environment would let checkpoints run code; remove '
            f'it: unset {NO_WEIGHTS_ONLY}'
        )
    known = torch.serialization.get_safe_globals()
    missing = [allowed for allowed in _allowed_globals() if allowed not in known]
    torch.serialization.add_safe_globals(missing)


def _is_trusted() -> bool:
    """Whether the user trusts the files: torch's variable is set to another value than 1."""
    return os.environ.get(WEIGHTS_ONLY, '1') not in TRUE_VALUES


@contextmanager
def _weights_only() -> Iterator[None]:
    """As `read_weights_only`, but restores the environment afterwards, for the calling program."""
    previous = os.environ.get(WEIGHTS_ONLY)
    try:
        read_weights_only()
        yield
    finally:
        if previous is None:
            os.environ.pop(WEIGHTS_ONLY, None)


@functools.cache
def _allowed_globals() -> list[Any]:
    """The types allowed besides weights: MMEngine's logs, numpy's numbers, options of a run.

    MMEngine's own list contains `getattr`, through which a file can call any function.
    """
    rebuilders: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    # numpy 1 and numpy 2 have them in different modules; a checkpoint may come from either.
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    renamed = [
        _with_module(function, module)
        for function in rebuilders
        for module in modules
        if module != function.__module__
    ]
    # timm and many training scripts save their options as a Namespace, which has only attributes.
    plain_types = [argparse.Namespace, slice, HistoryBuffer, np.ndarray, np.dtype]
    number_types = [type(np.dtype(kind)) for kind in ('uint32', 'int64', 'float64')]
    return [*renamed, *plain_types, *number_types, *rebuilders, _history_buffer_getattr]


def _with_module(function: Callable, module: str) -> Callable:
    """The function with the module name that it has in another version of numpy."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__ = module
    call.__name__ = call.__qualname__ = function.__name__
    return call


def _history_buffer_getattr(owner: type, name: str) -> object:
    """Replaces `getattr`, which the pickle of a HistoryBuffer calls for the buffer's methods."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'getattr({owner}, {name!r}) is not allowed')
    return getattr(owner, name)


_history_buffer_getattr.__module__ = 'builtins'
_history_buffer_getattr.__name__ = _history_buffer_getattr.__qualname__ = 'getattr'
