"""Images as mmdet decodes them, and what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from .content import Content, Fault

EXIF_ORIENTATION = 0x0112


ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


# Whose size Pillow's header and the EXIF tag tell as OpenCV decodes it; others are decoded by both.
LIKE_OPENCV = ('JPEG', 'MPO', 'PNG', 'BMP')


class Decoded(NamedTuple):
    """An image as mmdet decodes it, or why not.

    Attributes:
        fault: kind and what is said of it, or None.
        size: (width, height) as shown, after its EXIF orientation.
        stored: (width, height) as it lies in the file.
        mode: Pillow's name of its pixels ('RGB', 'L', 'CMYK', 'I;16').
        digest: SHA-1 of the file, or ''.
    """

    fault: tuple[str, str] | None
    size: tuple[int, int] = (0, 0)
    stored: tuple[int, int] = (0, 0)
    mode: str = ''
    digest: str = ''


def quick_fault(path: str) -> tuple[str, str] | None:
    """What the file system knows of an image that is not there, or holds nothing."""
    try:
        known = os.stat(path)
    except OSError:
        if near := file_under_another_name(path):
            return 'image under another name', f'missing, but {near} is there'
        return 'image missing', 'missing'
    if not stat.S_ISREG(known.st_mode):
        return 'image missing', 'no file'
    return None if known.st_size else ('image empty', 'empty')


def file_under_another_name(path: str) -> str | None:
    """The file that is there for one that is not: in other letter case, of another ending, or with
    / for Windows' \\.
    """
    for name in dict.fromkeys((path, path.replace('\\', '/'))):
        if os.path.isfile(name):
            return name
        folder, wanted = os.path.split(name)
        at = folder_in_other_case(folder)
        if at is None:
            continue
        stem = os.path.splitext(wanted)[0].casefold()
        ranks = {f'{stem}{ending}': rank for rank, ending in enumerate(ENDINGS)}
        ranks[wanted.casefold()] = -1  # before those of another ending
        there = [
            file for file in _names_in(at, os.stat(at).st_mtime_ns) if file.casefold() in ranks
        ]
        for file in sorted(there, key=lambda file: ranks[file.casefold()]):
            if os.path.isfile(os.path.join(at, file)):
                return os.path.join(at, file)
    return None


def folder_in_other_case(folder: str) -> str | None:
    """The folder itself, or the one whose path differs in letter case alone; None without any."""
    if os.path.isdir(folder or '.'):
        return folder or '.'
    parent, name = os.path.split(folder)
    at = folder_in_other_case(parent) if name else None
    if at is None:
        return None
    for other in _names_in(at, os.stat(at).st_mtime_ns):
        if other.casefold() == name.casefold() and os.path.isdir(os.path.join(at, other)):
            return os.path.join(at, other)
    return None


@lru_cache(maxsize=64)
def _names_in(folder: str, changed: int) -> list[str]:
    """The names in a folder, read once for all its missing files.

    Args:
        changed: its time of change, so that a changed one is read anew.
    """
    return sorted(os.listdir(folder))


def header_size(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of an image file as it is shown; None where it cannot be told."""
    try:
        with Image.open(path) as picture:
            return _turned(picture)[0]
    except Exception:  # of an image that the check of the images names
        return None


def pixel_notes(looks: Iterable[Decoded]) -> list[str]:
    """What mmdet handles of decoded images: pixels that are not RGB, images that it turns."""
    looks = list(looks)
    modes = Counter(look.mode for look in looks if look.mode not in ('', 'RGB'))
    notes = []
    if modes:
        said = ', '.join(f'{mode} {count:,}' for mode, count in modes.most_common())
        notes.append(
            f'{modes.total():,} images are not RGB ({said}); mmdet reads three channels of 8 bits'
        )
    if turned := sum(look.size != look.stored for look in looks):
        notes.append(f'{turned:,} images are turned by their EXIF orientation, as by mmdet')
    return notes


def quick_look(path: str) -> Decoded:
    """`decode` without opening the file."""
    return Decoded(quick_fault(path))


def decode(path: str) -> Decoded:
    """Decode one image; a truncated one is a fault here, where OpenCV may fill it with grey."""
    if fault := quick_fault(path):
        return Decoded(fault)
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, stored = _turned(image)
            mode = image.mode
            image.load()
            if image.format not in LIKE_OPENCV:
                read = _size_by_opencv(data)
                size = read or size
                if read is None:
                    said = f'unreadable: OpenCV, with which mmdet reads, has no {image.format}'
                    return Decoded(('image unreadable', f'{said} of mode {mode}'))
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        read = _size_by_opencv(data)  # which has other limits and formats
        if read is None:
            return Decoded(('image unreadable', f'unreadable: {str(error).splitlines()[0]}'))
        return Decoded(None, read, read, '', hashlib.sha1(data).hexdigest())
    except Exception as error:  # Pillow's formats raise errors of any kind on broken files
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Decoded(('image unreadable', f'unreadable: {said}'))
    return Decoded(None, size, stored, mode, hashlib.sha1(data).hexdigest())


def _size_by_opencv(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an image as mmdet reads it; None where it cannot."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # of more than 2^30 pixels
        return None
    return None if array is None else array.shape[1::-1]


def _turned(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) as shown, and as stored."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # damaged, of any kind: OpenCV takes the pixels as they are stored
        orientation = None
    return (image.size[::-1] if orientation in (5, 6, 7, 8) else image.size), image.size


def decode_all(paths: Iterable[str], description: str, progress: bool = True) -> dict[str, Decoded]:
    """Decode images in parallel, each once, with a progress bar."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's, of metadata and sizes that mmdet does not mind
        done: Iterable[Decoded] = pool.map(decode, paths)
        if progress:
            done = track(done, description, total=len(paths), transient=True)
        return dict(zip(paths, done, strict=True))


def image_faults(content: Content, look: Callable[[str], Decoded]) -> Iterator[Fault]:
    """The faults of a set's images, of which `look` tells each one's."""
    for index, (path, size, _) in enumerate(content.images):
        if not path:
            continue  # no name: said already
        found = look(path)
        if found.fault:
            yield Fault(found.fault[0], path, f'({found.fault[1]})', image=index)
        elif size and found.size != (0, 0) and tuple(size) != tuple(found.size):
            stored = '' if found.size == found.stored else ' once turned by its EXIF orientation'
            said = f'is {found.size[0]} x {found.size[1]}{stored}, and annotated as '
            said += f'{size[0]} x {size[1]}'
            yield Fault('size differs', path, said, image=index)


def add_copies(content: Content, found: dict[str, Decoded]) -> dict[str, str]:
    """Add the faults of entries whose image is an earlier one's, byte for byte.

    Returns:
        Digest -> path of each different image.
    """
    first: dict[str, int] = {}
    paths: set[str] = set()
    for index, (path, _, _) in enumerate(content.images):
        digest = found[path].digest if path and path not in paths else ''
        paths.add(path)
        if digest and first.setdefault(digest, index) != index:
            earlier = first[digest]
            said = f'is {content.images[earlier].path} too'
            content.add_fault('same image twice', path, said, image=index, first=earlier)
    content.judge_copies('same image twice', len(content.images))
    return {digest: content.images[index].path for digest, index in first.items()}
