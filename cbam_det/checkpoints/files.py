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

from ..utils.errors import InputError, some
from ..utils.files import whole_file

WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


class Unreadable(InputError):
    """A file is damaged: empty, truncated, or no checkpoint at all."""


def read_checkpoint(source: str, what: str, remedy: str) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU.

    Args:
        source: a file, or a URL or name that MMEngine knows (https://, torchvision://, timm://).
        what: what it is, for the message.
        remedy: what to do where it cannot be read, for the message.

    Raises:
        Unreadable: it is damaged, or not there.
        InputError: more than weights is pickled in it.
    """
    try:
        _check_head(Path(source))
        with _weights_only():
            return CheckpointLoader.load_checkpoint(source, map_location='cpu', logger='silent')
    except Exception as error:  # a broken pickle raises anything
        fault = f'{type(error).__name__}: {error}'.strip().splitlines()[0][:200]
        if isinstance(error, Unreadable):
            fault = str(error)
        elif 'PytorchStreamReader' in str(error):
            fault = 'it is cut off or damaged'
        elif isinstance(error, UnpicklingError) and 'weights only' in str(error).lower():
            raise InputError(
                f'{what} cannot be loaded (more than weights is pickled in it, which could run any '
                f'code when it is read); where you trust its source, put {WEIGHTS_ONLY}=0 before '
                'the command'
            ) from None
        raise Unreadable(f'{what} cannot be loaded ({fault}); {remedy}') from None


def _check_head(file: Path) -> None:
    """Raise Unreadable where a file does not begin as those of torch do."""
    if not file.is_file():
        return
    with file.open('rb') as stream:
        head = stream.read(64).lstrip().lower()
    if not head:
        raise Unreadable('it is empty')
    if head.startswith(b'<'):
        raise Unreadable('it is a web page, not weights: a download was answered by a page')
    if not head.startswith((b'pk', b'\x80')):
        raise Unreadable('it is no file of torch')


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
        has = some([str(key) for key in content]) or 'nothing'
        raise InputError(f'{path} holds no weights, but {has}; give one with a state_dict')
    if state is content:
        return state, {}, []
    meta = meta if isinstance(meta, dict) else {}
    plain = {key: value for key, value in meta.items() if _is_plain(value)}
    return state, plain, [str(key) for key in content if key not in ('state_dict', 'meta')]


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
    with whole_file(path) as part:
        torch.save(dict(meta=meta, state_dict=state), part)


def read_weights_only() -> None:
    """Let torch read nothing but weights from a pickle, in the whole process from now on.

    A command calls it first, as MMEngine reads checkpoints by itself, and reads a file unsafely,
    with a warning, where reading it safely fails; torch's own variable closes that way. A user who
    has set it to 0 trusts the source of the files. Before torch 2.4 torch cannot be told what is
    allowed, and nothing changes.
    """
    if digit_version(torch.__version__) < digit_version('2.4.0'):
        return
    os.environ.setdefault(WEIGHTS_ONLY, '1')
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([kind for kind in _beside_weights() if kind not in known])


@contextmanager
def _weights_only() -> Iterator[None]:
    """As `read_weights_only`, and a program that uses the package reads its own files as before."""
    given = os.environ.get(WEIGHTS_ONLY)
    read_weights_only()
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(WEIGHTS_ONLY, None)


@functools.cache
def _beside_weights() -> list[Any]:
    """What checkpoints hold beside weights: MMEngine's logs, numbers of numpy, options of a run.

    Before torch 2.6 MMEngine does not name what its own checkpoints hold, so it is done here.
    """
    rebuild: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    # numpy 2 has them elsewhere, and a run may go on where numpy is another.
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    other = [_named(call, name) for call in rebuild for name in modules if name != call.__module__]
    # timm's and many other training scripts save their options; it takes attributes alone.
    allowed = [*other, argparse.Namespace]
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        return allowed  # MMEngine names the rest
    numbers = [type(np.dtype(kind)) for kind in ('uint32', 'int64', 'float64')]
    return [*allowed, HistoryBuffer, np.ndarray, np.dtype, *numbers, *rebuild, _statistic]


def _named(function: Callable, module: str) -> Callable:
    """The function under the name that it has in another module."""

    def call(*args: object) -> object:
        return function(*args)

    call.__module__ = module
    call.__name__ = call.__qualname__ = function.__name__
    return call


def _statistic(owner: type, name: str) -> object:
    """Stands for the `getattr` by which a HistoryBuffer's own methods are pickled in it."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'{name} of {owner} is asked for')
    return getattr(owner, name)


_statistic.__module__, _statistic.__name__ = 'builtins', 'getattr'
