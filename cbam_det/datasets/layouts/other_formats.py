"""Describe annotations in formats that are not read, for the error that names them."""

from __future__ import annotations

from pathlib import Path

from .files import Files

# Format -> the kind of its files in `Files`, their ending, and texts that all of them contain.
FORMATS: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
    "LabelMe's JSON": ('jsons', '.json', (b'"shapes"', b'"imagePath"')),
    "CreateML's JSON": ('jsons', '.json', (b'"annotations"', b'"coordinates"')),
    "CVAT's XML": ('xmls', '.xml', (b'<annotations', b'<image ')),
    'a CSV file': ('others', '.csv', ()),
}


def describe_other_formats(files: Files) -> list[str]:
    """What the files of a folder without readable annotations seem to be, with an example each."""
    found = []
    for name, (kind, ending, marks) in FORMATS.items():
        paths = [path for path in getattr(files, kind) if path.name.lower().endswith(ending)]
        example = next((path for path in paths if _contains(path, marks)), None)
        if example:
            found.append(f'{example.name} is {name}')
    stems = {image.stem for image in files.images}
    texts = sorted(files.texts, key=lambda path: path.stem not in stems)
    for path in texts[:1]:
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
        line = next(filter(str.strip, lines), '').strip()
        found.append(
            f'{path.name} begins with {line!r:.60}, but YOLO has five numbers between blanks: '
            'class, x, y, width, height'
        )
    return found


def _contains(path: Path, marks: tuple[bytes, ...]) -> bool:
    text = path.read_bytes()
    return all(mark in text for mark in marks)
