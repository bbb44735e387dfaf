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
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from .content import Content, Fault

EXIF_ORIENTATION = 0x0112


ENDINGS = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG', '.bmp', '.webp', '.tif')


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


def existence_fault(path: str) -> tuple[str, str] | None:
    """What the file system knows of an image that is not there, or holds nothing."""
    try:
        status = os.stat(path)
    except OSError:
        if actual := file_under_another_name(path):
            return 'image under another name', f'missing, but {actual} is there'
        return 'image missing', 'missing'
    if not stat.S_ISREG(status.st_mode):
        return 'image missing', 'no file'
    return None if status.st_size else ('image empty', 'empty')


def file_under_another_name(path: str) -> str | None:
    """The file that is there for one that is not: of another ending, or with / for Windows' \\."""
    for name in (path, path.replace('\\', '/')):
        stem = os.path.splitext(name)[0]
        for candidate in (name, *(stem + ending for ending in ENDINGS)):
            if os.path.isfile(candidate):
                return candidate
    return None


def pixel_notes(looks: Iterable[Decoded]) -> list[str]:
    """What mmdet handles of decoded images: pixels that are not RGB, images that it turns."""
    looks = list(looks)
    modes = Counter(look.mode for look in looks if look.mode not in ('', 'RGB'))
    notes = []
    if modes:
        counts = ', '.join(f'{mode} {count:,}' for mode, count in modes.most_common())
        notes.append(
            f'{modes.total():,} images are not RGB ({counts}); mmdet reads three channels of 8 bits'
        )
    if turned := sum(look.size != look.stored for look in looks):
        notes.append(f'{turned:,} images are turned by their EXIF orientation, as by mmdet')
    return notes


def check_exists(path: str) -> Decoded:
    """`decode` without opening the file."""
    return Decoded(existence_fault(path))


def decode(path: str) -> Decoded:
    """Decode one image; a truncated one is a fault here, where OpenCV may fill it with grey."""
    if fault := existence_fault(path):
        return Decoded(fault)
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, stored = shown_and_stored_size(image)
            mode = image.mode
            image.load()
            if image.format not in LIKE_OPENCV:
                opencv_size = _size_by_opencv(data)
                size = opencv_size or size
                if opencv_size is None:
                    message = f'unreadable: OpenCV, with which mmdet reads, has no {image.format}'
                    return Decoded(('image unreadable', f'{message} of mode {mode}'))
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        opencv_size = _size_by_opencv(data)  # which has other limits and formats
        if opencv_size is None:
            return Decoded(('image unreadable', f'unreadable: {str(error).splitlines()[0]}'))
        return Decoded(None, opencv_size, opencv_size, '', hashlib.sha1(data).hexdigest())
    except Exception as error:  # Pillow's formats raise errors of any kind on broken files
        message = (str(error).splitlines() or [type(error).__name__])[0]
        return Decoded(('image unreadable', f'unreadable: {message}'))
    return Decoded(None, size, stored, mode, hashlib.sha1(data).hexdigest())


def _size_by_opencv(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an image as mmdet reads it; None where it cannot."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # of more than 2^30 pixels
        return None
    return None if array is None else array.shape[1::-1]


def shown_and_stored_size(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
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
        decoded: Iterable[Decoded] = pool.map(decode, paths)
        if progress:
            decoded = track(decoded, description, total=len(paths), transient=True)
        return dict(zip(paths, decoded, strict=True))


def image_faults(content: Content, decode_image: Callable[[str], Decoded]) -> Iterator[Fault]:
    """The faults of a set's images, of which `decode_image` tells each one's."""
    for index, (path, size, _) in enumerate(content.images):
        if not path:
            continue  # no name: said already
        decoded = decode_image(path)
        if decoded.fault:
            yield Fault(decoded.fault[0], path, f'({decoded.fault[1]})', image=index)
        elif size and decoded.size != (0, 0) and tuple(size) != tuple(decoded.size):
            turned = ''
            if decoded.size != decoded.stored:
                turned = ' once turned by its EXIF orientation'
            message = f'is {decoded.size[0]} x {decoded.size[1]}{turned}, and annotated as '
            message += f'{size[0]} x {size[1]}'
            yield Fault('size differs', path, message, image=index)
