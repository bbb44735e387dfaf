"""Write files completely or not at all: after a kill or on a full disk, the old file stays."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write to `<path>.part`, and rename it to `path` once it is on the disk.

    Yields:
        The file to write. A process that is killed leaves it behind; the next write to `path`
        replaces it.

    Raises:
        OSError: it cannot be written; an existing file at `path` is kept.
    """
    path = Path(path)
    part = path.with_name(f'{path.name}.part')
    try:
        yield part
        with part.open('rb') as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def try_writing(folder: str | Path) -> None:
    """Write to a folder, or to the nearest one above it if it does not exist; nothing is left.

    Raises:
        OSError: nothing can be written there; `filename` is the folder that was tried.
    """
    folder = Path(folder).absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def check_output_file(path: str | Path) -> None:
    """Check that the file of an option `--out` can be written, before the work for it.

    Raises:
        InputError: it is a folder, or its folder cannot be created or written to.
    """
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try_writing(Path(path).parent)
    except OSError as error:
        raise InputError(
            f'--out {path} cannot be written ({error.filename}: {error.strerror}); give a file in '
            'a folder that you can write to'
        ) from None
