"""Read folders with YOLO labels: text files with a line `class x y width height` for each object.

x and y are the centre of the box, and all four are relative to the image size. The label file of an
image is next to it, or in a folder `labels` if the image is in a folder `images`. As in
Ultralytics, an image without a label file has no objects. A polygon, `class x1 y1 x2 y2 ...`, gives
the box around it, and a pose gives its box. Class names are in `data.yaml` (Ultralytics, Roboflow),
`classes.txt` (labelImg, Label Studio) or `obj.names` (CVAT).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from ...utils.errors import InputError, first_few
from ..validation.content import Content, ListedImage
from ..validation.images import ENDINGS, header_size
from ..validation.splits import AnnotatedSplit
from .files import SPLITS, Files, by_split, lines_of

NAME_FILES = ('classes.txt', 'obj.names', '_darknet.labels')


def label_of(image: Path, texts: Mapping[Path, Path]) -> Path | None:
    """The label file of an image; None if it has none.

    Args:
        texts: the existing text files by their paths with the ending .txt.
    """
    parts = list(image.with_suffix('.txt').parts)
    candidates = [Path(*parts)]
    for index in reversed([n for n, part in enumerate(parts) if part.lower() == 'images']):
        candidates.append(Path(*parts[:index], 'labels', *parts[index + 1 :]))
    return next((texts[path] for path in candidates if path in texts), None)


def _texts(files: Files) -> dict[Path, Path]:
    """The text files, .TXT too, by their paths with the ending .txt."""
    texts = [path for path in files.texts if path.suffix.lower() == '.txt']
    return {path.with_suffix('.txt'): path for path in texts}


def yolo_files_of(files: Files) -> list[Path]:
    """The label files of a data folder: text files whose first line with text is a label.

    If some text files have the name of an image, only these are considered.
    """
    texts = _texts(files)
    labels = sorted(filter(None, (label_of(image, texts) for image in files.images)))
    labels = labels or sorted(texts.values())
    return [path for path in labels if _first_line_is_label(path)]


def _first_line_is_label(path: Path) -> bool:
    words = next(filter(str.strip, _lines(path)), '').split()
    return len(words) >= 5 and all(map(_is_number, words))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding='utf-8-sig', errors='replace').splitlines()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_yolo_folder(files: Files) -> list[AnnotatedSplit]:
    """The splits of a YOLO folder, named 'train', 'val' or 'test', or 'all' if there is only one.

    `data.yaml` defines the splits; without it, the names of folders do.

    Raises:
        InputError: class names are missing or differ, a class has no name, most labels have no
            image, a label can be that of two images, or only some images are in folders of splits.
    """
    options, file = _data_yaml(files)
    names, names_file = _class_names(options, file, files)
    texts = _texts(files)
    labels = {image: label_of(image, texts) for image in files.images}
    with_image = _check_distinct_labels(labels)
    without_image = sorted(
        str(path)
        for path in texts.values()
        if path not in with_image and path.name not in NAME_FILES and _first_line_is_label(path)
    )
    if len(without_image) > len(with_image):
        raise InputError(
            f'{files.root} has no image for {len(without_image):,} of '
            f'{len(without_image) + len(with_image):,} YOLO label files '
            f'({first_few(without_image)}); put the images ({", ".join(ENDINGS)}) next to them, or '
            'into a folder "images" next to "labels"'
        )
    labelled = {image.parent for image, label in labels.items() if label}
    images = [image for image in files.images if image.parent in labelled]
    named = _named_splits(options, file, images)
    groups = named
    if len(named) < 2:
        groups = {name or 'all': paths for name, paths in by_split(images, files.root).items()}
    keypoints = _keypoint_values(options, file)
    splits = []
    for name, group in groups.items():
        content = _read(group, labels, names, names_file, keypoints, files.root)
        splits.append(AnnotatedSplit(name, files.root, files.root, content))
        unlabelled = sum(labels.get(image) is None for image in group)
        if unlabelled:
            splits[-1].notes.append(f'{unlabelled:,} images without label file have no objects')
    if without_image:
        splits[0].notes.append(
            f'{len(without_image):,} label files without an image are left out: '
            f'{first_few(without_image)}'
        )
    splits[0].notes += [
        f'no image was found for {split}: {options[split]} of {file}'
        for split in SPLITS
        if options.get(split) and split not in named and split not in groups
    ]
    return splits


def _check_distinct_labels(labels: Mapping[Path, Path | None]) -> set[Path]:
    """The label files of the images; raises InputError if two images have the same one."""
    images: dict[Path, Path] = {}
    for image, label in labels.items():
        if label is not None and images.setdefault(label, image) != image:
            raise InputError(
                f'{label} can be the label file of {images[label]} and {image}; give each image '
                'its own name'
            )
    return {*images}


def _data_yaml(files: Files) -> tuple[dict, Path | None]:
    """The content and path of the YAML file with `names`; {} and None if there is none."""
    with_names = []
    for path in files.yamls:
        if b'names' not in path.read_bytes():
            continue
        try:
            # By this loader the names `no` and `1` are texts, not False and a number.
            options = yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f'{path} cannot be read as YAML ({error}); correct it') from None
        if isinstance(options, dict) and 'names' in options:
            with_names.append((options, path))
    if len(with_names) > 1:
        paths = first_few([str(path) for _, path in with_names])
        raise InputError(f'{files.root} has several files with class names ({paths}); keep one')
    return with_names[0] if with_names else ({}, None)


def _keypoint_values(options: dict, file: Path | None) -> int:
    """The number of values of all keypoints of an object; 0 if the data have none."""
    shape = options.get('kpt_shape')
    if not isinstance(shape, list):
        return 0
    if not all(isinstance(number, str) and number.isdecimal() for number in shape):
        raise InputError(
            f'{file}: kpt_shape=[{", ".join(map(str, shape))}] has a value that is not a whole '
            'number; write it as kpt_shape: [17, 3]'
        )
    return math.prod(map(int, shape))


def _class_names(options: dict, file: Path | None, files: Files) -> tuple[list[str], Path]:
    """The class names in the order of their numbers, and the file that has them."""
    if file is not None:
        names = options['names']
        if isinstance(names, dict) and set(names) == set(map(str, range(len(names)))):
            names = [names[str(number)] for number in range(len(names))]
        if not isinstance(names, list) or not names:
            raise InputError(
                f'{file}: names={names!r:.80} is not a list; write it as names: [cat, dog]'
            )
        names = [str(name).strip() for name in names]
        _check_distinct(names, file)
        return names, file
    lists = {path: lines_of(path) for path in files.texts if path.name in NAME_FILES}
    if not lists:
        raise InputError(
            f'{files.root} has YOLO labels but no class names; write them into '
            f'{files.root / "classes.txt"}, one per line, beginning with class 0'
        )
    path, names = next(iter(lists.items()))
    if not names:
        raise InputError(f'{path} has no names; write one per line, beginning with class 0')
    for other, other_names in lists.items():
        if other_names != names:
            raise InputError(f'the classes in {other} and {path} differ; make them the same')
    _check_distinct(names, path)
    return names, path


def _check_distinct(names: list[str], file: Path) -> None:
    """Raise InputError if two classes have one name; COCO would merge them."""
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(
                f'{file}: the classes {names.index(name)} and {number} are both named {name!r}; '
                'give each class its own name'
            )


def _named_splits(options: dict, file: Path | None, images: list[Path]) -> dict[str, list[Path]]:
    """The images of each split in `data.yaml`; without those that have none."""
    groups: dict[str, list[Path]] = {}
    for split in SPLITS:
        entries = options.get(split) or []
        group = [
            image
            for entry in (entries if isinstance(entries, list) else [entries])
            for image in _images_at(str(entry), str(options.get('path') or ''), file, images)
        ]
        if group:
            groups[split] = group
    return groups


def _images_at(entry: str, base: str, file: Path | None, images: list[Path]) -> list[Path]:
    """The images of an entry in `data.yaml`: a folder, or a text file with a list of images."""
    assert file is not None
    folders = [file.parent / base, file.parent]
    # Roboflow writes ../train/images but means train/images.
    places = [folder / name for folder in folders for name in (entry, entry.removeprefix('../'))]
    place = next((path for path in map(_normal, places) if path.exists()), None)
    if place is None:
        return []
    if place.is_dir():
        return [image for image in images if image.is_relative_to(place)]
    named = {_normal(place.parent / line) for line in lines_of(place)}
    return [image for image in images if image in named]


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _read(
    images: list[Path],
    labels: dict[Path, Path | None],
    names: list[str],
    names_file: Path,
    keypoints: int,
    root: Path,
) -> Content:
    content = Content(Path(os.path.commonpath([image.parent for image in images])))
    content.classes.update(dict.fromkeys(names, 0))
    raw_images: list[dict] = []
    annotations: list[dict] = []
    for index, image in enumerate(images):
        size = header_size(image)
        label = labels[image]
        width, height = size or (0, 0)
        file_name = Path(os.path.relpath(image, root)).as_posix()
        raw_images.append(dict(id=index + 1, file_name=file_name, width=width, height=height))
        text = enumerate(_lines(label) if label else [], 1)
        lines = {number: line for number, line in text if line.strip()}
        content.objects += len(lines)
        for number, line in lines.items():
            place = f'{label}, line {number}:'
            try:
                class_number, (x, y, w, h) = _box_of(line.split(), keypoints)
            except ValueError as error:
                content.add_fault(
                    'invalid box', place, f'{line.strip()!r:.60} {error}', image=index
                )
                continue
            if not 0 <= class_number < len(names):
                raise InputError(
                    f'{place} class {class_number}, but {names_file} has names for {len(names)} '
                    f'(0 to {len(names) - 1}); add the missing names'
                )
            content.classes[names[class_number]] += 1
            content.usable += 1
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=class_number + 1,
                    bbox=[round(value, 2) for value in box],
                    area=round(box[2] * box[3], 2),
                    iscrowd=0,
                )
            )
        content.images.append(ListedImage(str(image), size, len(lines)))
    categories = [dict(id=number, name=name) for number, name in enumerate(names, 1)]
    content.raw = dict(images=raw_images, annotations=annotations, categories=categories)
    return content


def _box_of(words: list[str], keypoints: int) -> tuple[int, tuple[float, ...]]:
    """The class and (x, y, width, height) of a line.

    Args:
        words: the words of the line.
        keypoints: number of values of all keypoints, in a data set of poses, else 0.

    Raises:
        ValueError: the line is not a label.
    """
    if not all(map(_is_number, words)) or not float(words[0]).is_integer():
        raise ValueError('is not a label of numbers')
    numbers = [float(word) for word in words[1:]]
    if keypoints and len(numbers) == 4 + keypoints:
        numbers = numbers[:4]
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        numbers = [
            (min(xs) + max(xs)) / 2,
            (min(ys) + max(ys)) / 2,
            max(xs) - min(xs),
            max(ys) - min(ys),
        ]
    if len(numbers) != 4:
        raise ValueError(f'has {len(words)} numbers, not 5')
    if not all(-0.1 <= number <= 1.1 for number in numbers):
        raise ValueError('has values outside 0..1')
    return int(float(words[0])), tuple(numbers)
