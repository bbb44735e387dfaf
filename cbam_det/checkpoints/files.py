"""Files of weights from anywhere, read as weights alone, and written."""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from ..utils.errors import InputError, some
from ..utils.files import whole_file


class _Unread:
    """Stands for what is pickled beside the weights (logs, numpy's values); nothing of it runs."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _unknown(path: Path) -> list[type]:
    """A class that stands for each name that a checkpoint holds and torch does not know."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except AttributeError:  # torch < 2.6
        with ZipFile(path) as file:
            (pickled,) = (name for name in file.namelist() if name.endswith('/data.pkl'))
            found = pickletools.genops(file.read(pickled))
            words = {tuple(word.split(' ')) for code, word, _ in found if code.name == 'GLOBAL'}
        words = [NAME_MAPPING.get(word, word) for word in words]
        names = [f'{IMPORT_MAPPING.get(module, module)}.{name}' for module, name in words]
    parts = (name.rpartition('.') for name in names)
    return [type(name, (_Unread,), {'__module__': module}) for module, _, name in parts]


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict, list[str]]:
    """A file's state dict, its plain `meta`, and the names of all else in it.

    Raises:
        InputError: it is missing or unreadable, or holds no weights; torch is older than 2.5.
    """
    path = Path(path)
    if not hasattr(torch.serialization, 'safe_globals'):
        raise InputError(f'torch {torch.__version__} cannot read {path} safely; use 2.5 or newer')
    if not path.is_file():
        raise InputError(f'no checkpoint {path}; give a file that torch.save wrote')
    try:
        # Files of torch before 1.6 are no zip files, and cannot be asked beforehand.
        unknown = _unknown(path) if is_zipfile(path) else []
        with torch.serialization.safe_globals(unknown):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        fault = str(error).strip().partition('\n')[0] or type(error).__name__
        raise InputError(f'{path} is no readable checkpoint ({fault}); fetch it again') from None
    content = content if isinstance(content, dict) else {}
    state, meta = content.get('state_dict', content), content.get('meta')
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        has = some([str(key) for key in content]) or 'nothing'
        raise InputError(f'{path} holds no weights, but {has}; give one with a state_dict')
    if state is content:
        return state, {}, []
    meta = meta if isinstance(meta, dict) else {}
    plain = {key: value for key, value in meta.items() if _plain(value)}
    return state, plain, [str(key) for key in content if key not in ('state_dict', 'meta')]


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
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
