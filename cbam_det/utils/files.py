"""Write files completely or not at all: after a kill or on a full disk, the old file stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
