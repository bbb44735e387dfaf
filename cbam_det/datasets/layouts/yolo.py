"""Read folders with YOLO labels: text files with a line `class x y width height` for each object.

x and y are the centre of the box, and all four are relative to the image size. The label file of an
image is next to it, or in a folder `labels` if the image is in a folder `images` or `JPEGImages`.
As in Ultralytics, an image without a label file has no objects, but training and validation need
some labels. A polygon, `class x1 y1 x2 y2 ...`, gives the box around it, and a pose gives its box.
Class names are in `data.yaml` (Ultralytics, Roboflow), `classes.txt` (labelImg, Label Studio),
`_darknet.labels` (Roboflow), or `obj.names` (CVAT) and other `*.names`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ...utils.errors import InputError, first_few
from ..validation.content import Content, ListedImage
from ..validation.images import ENDINGS, header_size, same_for_all_cases
from ..validation.splits import AnnotatedSplit
from .data_yaml import data_yaml, entries_of, keypoint_values, named_splits
from .files import IMAGE_FOLDERS, SPLITS, Files, by_split, lines_of, split_of

NAME_FILES = ('classes.txt', 'obj.names', '_darknet.labels')


def label_of(image: Path, texts: Mapping[str, Path]) -> Path | None:
    """The label file of an image; None if it has none.

    Args:
        texts: the text files, see `_texts`.
    """
    parts = list(image.with_suffix('.txt').parts)
    candidates = [Path(*parts)]
    for index in reversed([n for n, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS]):
        candidates.append(Path(*parts[:index], 'labels', *parts[index + 1 :]))
    names = [name for path in candidates for name in (str(path), same_for_all_cases(str(path)))]
    return next((texts[name] for name in names if name in texts), None)


def _texts(files: Files) -> dict[str, Path]:
    """The text files by their paths with the ending .txt, and by `same_for_all_cases` of these."""
    texts = [path for path in files.texts if path.suffix.lower() == '.txt']
    exact = {str(path.with_suffix('.txt')): path for path in texts}
    return {same_for_all_cases(name): path for name, path in exact.items()} | exact


def yolo_files_of(files: Files) -> list[Path]:
    """The label files of a data folder: text files whose first line with text is a label.

    If some text files have the name of an image, only these are considered.
    """
    texts = _texts(files)
    labels = sorted(filter(None, (label_of(image, texts) for image in files.images)))
    labels = labels or sorted({*texts.values()})
    return [path for path in labels if _first_line_is_label(path)]


def _first_line_is_label(path: Path) -> bool:
    words = next(filter(str.strip, _lines(path)), '').split()
    return len(words) >= 5 and all(map(_is_number, words))


def _has_class_0(label: Path) -> bool:
    words = [words[0] for line in _lines(label) if (words := line.split())]
    return any(_is_number(word) and float(word) == 0 for word in words)


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
            image, a label can be that of two images, only some images are in folders of splits, or
            training or validation has no image or no label.
    """
    options, file = data_yaml(files)
    names, names_file = _class_names(options, file, files)
    texts = _texts(files)
    labels = {image: label_of(image, texts) for image in files.images}
    with_image = _check_distinct_labels(labels)
    without_image = sorted(
        str(path)
        for path in {*texts.values()} - with_image
        if path.name.lower() not in NAME_FILES and _first_line_is_label(path)
    )
    if len(without_image) > len(with_image):
        raise InputError(
            f'{files.root} has no image for {len(without_image):,} of '
            f'{len(without_image) + len(with_image):,} YOLO label files '
            f'({first_few(without_image)}); put the images ({", ".join(ENDINGS)}) next to them, or '
            'into a folder "images" next to "labels"'
        )
    named = named_splits(options, file, files)
    groups = named
    if len(named) < 2:
        # Other images, such as figures, are not data.
        labelled = {image.parent for image, label in labels.items() if label}
        in_splits = all(split_of(folder / '_', files.root) for folder in labelled)
        used = {image for group in named.values() for image in group}
        used |= {image for image in files.images if image.parent in labelled}
        used |= {image for image in files.images if in_splits and split_of(image, files.root)}
        images = [image for image in files.images if image in used]
        groups = {name or 'all': paths for name, paths in by_split(images, files.root).items()}
    for split in SPLITS:
        group = groups.get(split, named.get(split, []))
        if not group and entries_of(options, split):
            problem = f'no image was found for {split}: {options[split]} of {file}'
            remedy = 'correct the path, or remove it'
        elif group and not any(labels[image] for image in group):
            problem = f'the {len(group):,} images of {split} have no label files ({group[0]})'
            remedy = 'label some, or move them out of the folder'
            remedy += f' and remove {split} from {file}' if options.get(split) else ''
        else:
            continue
        if split != 'test':
            raise InputError(f'{problem}; {remedy}')
        files.notes.append(f'{problem}, so there is no test set')
        files.noted += groups.pop('test', [])
    if len(groups) == 1:
        groups = {'all': next(iter(groups.values()))}
    keypoints = keypoint_values(options, file)
    splits = []
    for name, group in groups.items():
        content = _read(group, labels, names, names_file, keypoints, files.root)
        splits.append(AnnotatedSplit(name, files.root, files.root, content))
        unlabelled = sum(labels.get(image) is None for image in group)
        if unlabelled:
            splits[-1].notes.append(f'{unlabelled:,} images without label file have no objects')
    counts = [sum(split.content.classes[name] for split in splits) for name in names]
    if counts[-1] > counts[0] == 0:
        files.notes.append(
            f'no object has class 0 ({names[0]}), but some have class {len(names) - 1} '
            f'({names[-1]}): if the labels count classes from 1, all names are wrong, so subtract 1'
        )
    if without_image:
        files.notes.append(
            f'{len(without_image):,} label files without an image are left out: '
            f'{first_few(without_image)}'
        )
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
    lists = [path for path in files.texts if path.name.lower() in NAME_FILES]
    lists = lists or [path for path in files.texts if path.suffix.lower() == '.names']
    names_of = {path: lines_of(path) for path in lists}
    if not lists:
        raise InputError(
            f'{files.root} has YOLO labels but no class names; write them into '
            f'{files.root / "classes.txt"}, one per line, beginning with class 0'
        )
    path, names = next(iter(names_of.items()))
    if not names:
        raise InputError(f'{path} has no names; write one per line, beginning with class 0')
    for other, other_names in names_of.items():
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


def _read(
    images: list[Path],
    labels: dict[Path, Path | None],
    names: list[str],
    names_file: Path,
    keypoints: int,
    root: Path,
) -> Content:
    folder = Path(os.path.commonpath([image.parent for image in images]))
    content = Content(folder, has_sizes=False)
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
                remedy = 'add the missing names'
                if not any(map(_has_class_0, filter(None, labels.values()))):
                    remedy += ', or number the classes from 0 if the labels count them from 1'
                raise InputError(
                    f'{place} class {class_number}, but {names_file} has names for {len(names)} '
                    f'(0 to {len(names) - 1}); {remedy}'
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
