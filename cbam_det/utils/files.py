"""Files that are whole or not there: a kill, or a full disk, leaves the one before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file beside `path`, `<path>.part`, that takes its name once it is on the disk.

    Yields:
        The file to write. What is killed while it writes leaves it; the next write to `path`
        replaces it.

    Raises:
        OSError: it cannot be written; what was at `path` is there still.
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
