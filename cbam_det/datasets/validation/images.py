"""Decode images as mmdet does, and find their faults."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from .content import Content, Fault, as_id

TIFF_WIDTH, TIFF_LENGTH, EXIF_ORIENTATION = 0x0100, 0x0101, 0x0112
DARK = 32  # of 255; pictures of 12 bits in files of 16 bits reach 15
ENDINGS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
# In these formats Pillow's header and the EXIF tag give the size that OpenCV decodes. Images in
# other formats are decoded by both.
LIKE_OPENCV = ('JPEG', 'MPO', 'PNG', 'BMP')


class Decoded(NamedTuple):
    """An image as mmdet decodes it, or the reason why it cannot.

    Attributes:
        fault: kind and message of its fault, or None.
        size: (width, height) as displayed, after the EXIF orientation is applied.
        stored: (width, height) without the EXIF orientation. OpenCV applies that of a TIFF in any
            case, and that of a WebP file never.
        mode: Pillow's pixel mode ('RGB', 'L', 'CMYK', 'I;16').
        digest: SHA-1 of the file, or ''.
        brightest: the largest value after the conversion to 8 bits, of an image of 16 bits.
    """

    fault: tuple[str, str] | None
    size: tuple[int, int] = (0, 0)
    stored: tuple[int, int] = (0, 0)
    mode: str = ''
    digest: str = ''
    brightest: int | None = None


def existence_fault(path: str) -> tuple[str, str] | None:
    """The fault of an image file that is missing or empty; None otherwise."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError for a null byte
        if actual := file_under_another_name(path):
            message = f'missing, but {actual} exists'
            if unicodedata.normalize('NFC', actual) == unicodedata.normalize('NFC', path):
                message += ', with its accents as characters of their own, as macOS writes them'
            return 'image under another name', message
        return 'image missing', 'missing'
    if not stat.S_ISREG(status.st_mode):
        return 'image missing', 'not a file'
    return None if status.st_size else ('image empty', 'empty')


def file_under_another_name(path: str) -> str | None:
    """The existing file that `path` means; None if there is none.

    Its name may differ in letter case, ending, \\ for /, and in how accents are written.
    """
    for name in dict.fromkeys((path, path.replace('\\', '/'))):
        if os.path.isfile(name):
            return name
        folder, wanted = os.path.split(name)
        actual_folder = folder_in_other_case(folder)
        if actual_folder is None:
            continue
        names = _names_in(actual_folder)
        stem = same_for_all_cases(os.path.splitext(wanted)[0])
        for other in (same_for_all_cases(wanted), *(f'{stem}{ending}' for ending in ENDINGS)):
            for file in names.get(other, ()):
                if os.path.isfile(actual := os.path.join(actual_folder, file)):
                    return actual
    return None


def folder_in_other_case(folder: str) -> str | None:
    """The folder, or the one whose path differs only in letter case or in how accents are written;
    None if there is none.
    """
    if os.path.isdir(folder or '.'):
        return folder or '.'
    parent, name = os.path.split(folder)
    actual_parent = folder_in_other_case(parent) if name else None
    if actual_parent is None:
        return None
    for other in _names_in(actual_parent).get(same_for_all_cases(name), ()):
        if os.path.isdir(path := os.path.join(actual_parent, other)):
            return path
    return None


def _names_in(folder: str) -> dict[str, list[str]]:
    """The names in a folder by `same_for_all_cases`. Cached until the folder changes."""
    return _read_folder(folder, os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=64)
def _read_folder(folder: str, changed: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(same_for_all_cases(name), []).append(name)
    return names


def same_for_all_cases(name: str) -> str:
    """A text that all letter cases of a name have in common, with accents decomposed or not."""
    return unicodedata.normalize('NFC', name.casefold())


def header_size(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of an image file as displayed; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            return shown_and_stored_size(picture)[0]
    except Exception:  # the check of the images reports this one, but OpenCV may read it
        decoded = decode(str(path))
        return None if decoded.fault else decoded.size


def pixel_notes(images: Iterable[Decoded]) -> list[str]:
    """Notes on what mmdet converts: pixels that are not RGB, images with an EXIF orientation."""
    images = list(images)
    modes = Counter(image.mode for image in images if image.mode not in ('', 'RGB'))
    notes = []
    if modes:
        counts = ', '.join(f'{mode} {count:,}' for mode, count in modes.most_common())
        notes.append(
            f'{modes.total():,} images are not RGB ({counts}); mmdet converts them to 8-bit RGB'
        )
    if rotated := sum(image.size != image.stored for image in images):
        notes.append(f'{rotated:,} images have an EXIF orientation; mmdet rotates them')
    brightest = [image.brightest for image in images if image.brightest is not None]
    if dark := [value for value in brightest if value < DARK]:
        notes.append(
            f'16-bit images are almost black after this conversion: {len(dark):,} (at most '
            f'{max(dark)} of 255); multiply their values so that they reach 65,535'
        )
    return notes


def check_exists(path: str) -> Decoded:
    """`decode` without opening the file."""
    return Decoded(existence_fault(path))


def check_header(path: str, annotated: tuple[float, float] | None) -> Decoded:
    """`decode` by the header of the file alone, where that shows its size.

    A file without a known header is decoded. So is a PNG whose size is not the annotated one, as
    Pillow needs that for its EXIF orientation.
    """
    if fault := existence_fault(path):
        return Decoded(fault)
    try:
        with Image.open(path) as image:
            if image.format not in LIKE_OPENCV:
                return Decoded(None)
            if image.format != 'PNG':
                return Decoded(None, *shown_and_stored_size(image))
            if annotated is None or image.size == annotated:
                return Decoded(None, image.size, image.size)
    except Exception:  # Pillow raises errors of any kind on broken files
        pass
    return decode(path)


def decode(path: str) -> Decoded:
    """Decode one image. A truncated image is a fault, although OpenCV may fill it with grey."""
    if fault := existence_fault(path):
        return Decoded(fault)
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            has_16_bits = any(';16' in str(tile) for tile in image.tile)  # empty once it is loaded
            size, stored = shown_and_stored_size(image)
            mode = image.mode
            image.load()
            brightest = _brightest(image) if has_16_bits else None
            if image.format not in LIKE_OPENCV:
                opencv_size = _size_by_opencv(data)
                size = stored = opencv_size or size
                if opencv_size is None:
                    message = f'unreadable: OpenCV, which mmdet uses, cannot decode {image.format}'
                    return Decoded(('image unreadable', f'{message} of mode {mode}'))
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        opencv_size = _size_by_opencv(data)  # OpenCV has other limits and formats
        if opencv_size is None:
            return Decoded(('image unreadable', f'unreadable: {str(error).splitlines()[0]}'))
        return Decoded(None, opencv_size, opencv_size, '', _sha1(data))
    except Exception as error:  # Pillow raises errors of any kind on broken files
        message = (str(error).splitlines() or [type(error).__name__])[0]
        return Decoded(('image unreadable', f'unreadable: {message}'))
    return Decoded(None, size, stored, mode, _sha1(data), brightest)


def _brightest(image: Image.Image) -> int:
    """The largest value of an image of 16 bits as 8 bits; Pillow reads its colours as 8 bits."""
    largest = int(np.asarray(image).max())
    return largest >> 8 if image.mode.startswith('I') else largest


def _size_by_opencv(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an image as mmdet reads it; None if it cannot."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # more than 2^30 pixels
        return None
    return None if array is None else array.shape[1::-1]


def shown_and_stored_size(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) as displayed, and as stored."""
    try:
        exif = image.getexif()
        orientation = exif.get(EXIF_ORIENTATION)
    except Exception:  # damaged EXIF of any kind, which OpenCV ignores
        return image.size, image.size
    stored = image.size
    if image.format == 'TIFF':  # recent versions of Pillow give the size as displayed
        stored = exif.get(TIFF_WIDTH, stored[0]), exif.get(TIFF_LENGTH, stored[1])
    return (stored[::-1] if orientation in (5, 6, 7, 8) else stored), stored


def decode_all(paths: Iterable[str], description: str, progress: bool = True) -> dict[str, Decoded]:
    """Decode images in parallel, each path once, with a progress bar."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's, about metadata and large images
        decoded: Iterable[Decoded] = pool.map(decode, paths)
        if progress:
            decoded = track(decoded, description, total=len(paths), transient=True)
        return dict(zip(paths, decoded, strict=True))


def image_faults(
    content: Content, decode_image: Callable[[str], Decoded], stored: bool = False
) -> Iterator[Fault]:
    """The faults of a set's images, each decoded with `decode_image`.

    Args:
        stored: the config reads images as they are stored, without their EXIF orientation.
    """
    for index, (path, size, _) in enumerate(content.images):
        if not path:
            continue  # no valid file name, which is reported already
        decoded = decode_image(path)
        actual = decoded.stored if stored else decoded.size
        if decoded.fault:
            yield Fault(decoded.fault[0], path, f'({decoded.fault[1]})', image=index)
        # Harmful in VOC too, although mmdet reads boxes without the size of the XML: most such
        # images were resized or turned after they were annotated, so that their boxes are wrong,
        # and only the user can see whether they are.
        elif size and actual != (0, 0) and tuple(size) != tuple(actual):
            rotated = ''
            if actual != decoded.stored:
                rotated = ' after its EXIF orientation is applied'
            message = f'is {actual[0]} x {actual[1]}{rotated}, but annotated as '
            if not content.has_sizes:
                message = f'is {actual[0]} x {actual[1]} in OpenCV, which ignores its EXIF '
                message += 'orientation, and displayed as '
            message += f'{size[0]} x {size[1]}'
            yield Fault('size differs', path, message, image=index)


def add_repeated_images(content: Content, identities: Mapping[str, str]) -> dict[str, str]:
    """Add a fault for each image whose bytes equal those of an earlier image.

    It is harmful if the two have other objects: then each of them lacks some. Copies with the same
    boxes and empty tiles of a large picture are harmless.

    Args:
        identities: path -> a text that only equal files have in common, '' if it is unknown.

    Returns:
        Identity -> path of each distinct image.
    """
    objects = _objects_of_images(content)
    first_index: dict[str, int] = {}
    earlier_paths: set[str] = set()
    for index, (path, _, _) in enumerate(content.images):
        identity = identities[path] if path and path not in earlier_paths else ''
        earlier_paths.add(path)
        if identity and first_index.setdefault(identity, index) != index:
            first = first_index[identity]
            message = f'is the same image as {content.images[first].path}'
            harmful = objects[index] != objects[first]
            content.add_fault(
                'same image twice', path, message, harmful=harmful, image=index, first=first
            )
    content.ignore_few('same image twice', len(content.images))
    return {identity: content.images[index].path for identity, index in first_index.items()}


def _objects_of_images(content: Content) -> list[Counter[str]]:
    """The classes and boxes of each image, in the order of the file."""
    if content.is_voc:
        return [content.voc_boxes.get(index, Counter()) for index in range(len(content.images))]
    objects: dict[object, Counter[str]] = defaultdict(Counter)
    for annotation in content.raw.get('annotations', ()):
        if isinstance(annotation, dict):
            values = [annotation.get(key) for key in ('category_id', 'bbox', 'iscrowd')]
            objects[as_id(annotation.get('image_id'))][str(values)] += 1
    images = content.raw.get('images', ())
    ids = [image.get('id') if isinstance(image, dict) else None for image in images]
    return [objects[as_id(image_id)] for image_id in ids]


def compare_files(groups: Sequence[Iterable[str]], largest: int) -> list[dict[str, str]]:
    """Find equal files, by their bytes.

    Files of one size are compared by a block from their middle, and read as a whole only where that
    is equal too, so that few files of a large data set are opened.

    Args:
        groups: paths of files.
        largest: in groups of more files, only those that other groups have too are searched.

    Returns:
        For each group, path -> digest if an equal file was found, otherwise its absolute path.
    """
    absolute_paths = [{path: os.path.abspath(path) for path in paths} for paths in groups]
    candidates = [
        dict.fromkeys({name: path for path, name in paths.items()}.values())
        for paths in absolute_paths
    ]
    for key_of in (_size, _middle, _digest):
        keys = [{path: key for path in paths if (key := key_of(path))} for paths in candidates]
        counts = Counter(
            chain.from_iterable(
                group.values() if len(paths) <= largest else set(group.values())
                for group, paths in zip(keys, absolute_paths, strict=True)
            )
        )
        candidates = [
            {path: key for path, key in group.items() if counts[key] > 1} for group in keys
        ]
    return [
        {path: str(digests.get(path, name)) for path, name in paths.items()}
        for paths, digests in zip(absolute_paths, candidates, strict=True)
    ]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # the check of each image names it
        return 0


def _middle(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            file.seek(os.stat(path).st_size // 2)
            return file.read(1024)
    except OSError:
        return b''


def _digest(path: str) -> str:
    return _sha1(Path(path).read_bytes())


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
