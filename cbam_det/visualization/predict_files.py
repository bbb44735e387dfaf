"""The images and videos that `predict` reads, and where it draws them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..datasets.layouts.files import lines_of, walk_files
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.find_files import check_source

PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
KNOWN = [*PICTURES, *VIDEOS]
WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


class Input(NamedTuple):
    """An image or a video.

    Attributes:
        path: its absolute path.
        name: its path below the given folder, or below the folder that all inputs share.
        drawing: the file of its drawing.
        stamp: its size in bytes and its modification time in nanoseconds; [] if it is missing.
    """

    path: Path
    name: str
    drawing: Path
    stamp: list[int]

    @property
    def is_video(self) -> bool:
        """Whether it has the ending of a video."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(source: str, announce: bool = False) -> list[Path]:
    """Find the images and videos of `source`.

    Args:
        source: an image, a video, a folder (read with its subfolders and links, without hidden
            files), a pattern with `*`, or a `.txt` file with one path per line, relative to that
            file.
        announce: print the endings of the other files of a folder or pattern.

    Raises:
        InputError: `source` does not exist, has no image or video, or has a folder that cannot be
            read; or the `.txt` file is not UTF-8.
    """
    path = Path(source)
    if path.is_dir():
        try:
            files = _known(walk_files(path), source, announce)
        except OSError as error:
            raise InputError(
                f'{error.filename} cannot be read ({error.strerror}); give yourself access to it, '
                'or move it out of the folder'
            ) from None
    elif path.suffix.lower() == '.txt' and path.is_file():
        files = [path.parent / line for line in lines_of(path)]
    elif path.is_file():
        files = [path]
        if path.suffix.lower() not in KNOWN:
            raise InputError(
                f'{path} is not an image or a video; give one of {first_few(KNOWN, 9)}'
            )
    else:
        files = _known(map(Path, glob.glob(source, recursive=True)), source, announce)
        check_source(source)
    if not files:
        raise InputError(
            f'{source} has no image or video; give files that end in {first_few(KNOWN, 9)}'
        )
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in files))


def _known(paths: Iterable[Path], source: str, announce: bool) -> list[Path]:
    """The sorted files with known endings."""
    files = sorted(path for path in paths if not path.is_dir())
    known = [file for file in files if file.suffix.lower() in KNOWN]
    others = Counter(file.suffix.lower() or 'no ending' for file in files)
    counts = [f'{end} ({count:,})' for end, count in others.most_common() if end not in KNOWN]
    if announce and counts:
        print_stderr(f'{source}: files that are not read: {first_few(counts)}')
    return known


def read_inputs(source: str, out: Path) -> list[Input]:
    """The inputs of `source`, see `find_inputs`, without earlier drawings in `out`.

    Raises:
        InputError: see `find_inputs`; or two inputs would have the same drawing.
    """
    drawings = Path(os.path.abspath(out)) / 'drawn'
    files = [file for file in find_inputs(source, announce=True) if drawings not in file.parents]
    if not files:
        raise InputError(f'{source} has only the drawings of an earlier call; give your images')
    # A given folder stays the root when it gets new subfolders, so the names stay too.
    root = source if Path(source).is_dir() else os.path.commonpath([file.parent for file in files])
    inputs = []
    for file in files:
        name = os.path.relpath(file, root)
        inputs.append(Input(file, name, _drawing(drawings / name), _stamp(file)))
    counts = Counter(item.drawing for item in inputs)
    for drawing, count in counts.items():
        if count > 1:
            same = [str(item.path) for item in inputs if item.drawing == drawing]
            raise InputError(
                f'the drawings of {first_few(same)} would have the same name; rename one of them'
            )
    return inputs


def _drawing(path: Path) -> Path:
    """The path for the drawing of a file: its own name, with an ending that can be written."""
    if path.suffix.lower() in VIDEOS:
        return path if path.suffix == '.mp4' else path.with_name(f'{path.name}.mp4')
    return path if path.suffix in WRITABLE else path.with_name(f'{path.name}.jpg')


def _stamp(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
