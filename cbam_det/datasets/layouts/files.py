"""List the files of a data folder by kind, and find their splits by the names of folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath

from ...utils.errors import InputError, first_few
from ...utils.find_files import check_data_folder
from ..validation.images import ENDINGS

SPLITS = ('train', 'val', 'test')
IMAGE_FOLDERS = ('images', 'jpegimages')  # beside a folder `labels`
FOLDERS_OF_SYSTEMS = ('__MACOSX', 'lost+found')  # of macOS's archives, and of Linux's disks
PROJECT_FILES = ('data.py', 'baseline.py', 'cbam.py', 'study.yaml')
# 'train', 'valid' (Roboflow), 'Validation' and 'obj_train_data' (CVAT), 'val2017' (COCO).
_SPLIT_FOLDER = re.compile(
    r'(?:obj_|images?_|labels?_)?(train|val|test)(?:ing|id|idation)?(?:_?\d{4})?'
    r'(?:_data|_images?|_set)?',
    re.IGNORECASE,
)


@dataclass
class Files:
    """The files of a data folder, sorted by path.

    Attributes:
        root: the folder.
        images: all image files.
        xmls: all XML files.
        jsons: all JSON files.
        texts: `*.txt`, `*.names` and `*.labels`.
        yamls: `*.yaml` and `*.yml`.
        others: files of other kinds.
        notes: facts on the whole folder that its reader found.
        noted: images that these notes are about.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    xmls: list[Path] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    yamls: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    noted: list[Path] = field(default_factory=list)


def list_files(root: Path) -> Files:
    """List the files below `root`, without hidden files and projects of `init`.

    Folders that systems add, such as `__MACOSX`, are left out too. Symbolic links are followed;
    those without a target are left out.

    Args:
        root: the data folder. If it only contains one folder, as unpacked archives often do, the
            files of that folder are listed.

    Raises:
        InputError: the folder does not exist.
        OSError: a folder below it cannot be read.
    """
    check_data_folder(root)
    root = Path(os.path.abspath(root))
    kinds = dict(
        images=ENDINGS,
        xmls=('.xml',),
        jsons=('.json',),
        texts=('.txt', '.names', '.labels'),
        yamls=('.yaml', '.yml'),
        others=('',),
    )
    root = _only_folder(root)
    files = Files(root)
    for path in walk_files(root, projects=False):
        name = path.name.lower()
        kind = next(kind for kind, endings in kinds.items() if name.endswith(endings))
        if path.is_file():
            getattr(files, kind).append(path)
    return files


def walk_files(root: str | Path, projects: bool = True) -> Iterator[Path]:
    """Yield the paths of files below `root`, without hidden ones and those of systems.

    Symbolic links are followed, each folder is read once, and links without a target are yielded.

    Args:
        root: the folder.
        projects: whether to read projects of `init`.

    Raises:
        OSError: a folder cannot be read.
    """
    seen: set[str] = set()  # symbolic links can lead back to a parent folder
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        if os.path.realpath(folder) in seen or (not projects and {*PROJECT_FILES} <= {*names}):
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(filter(is_shown, subfolders))
        yield from (Path(folder, name) for name in sorted(filter(is_shown, names)))


def _raise(error: OSError) -> None:
    raise error


def is_shown(name: str) -> bool:
    """Whether a file or folder of this name is neither hidden nor one of a system."""
    return not name.startswith('.') and name not in FOLDERS_OF_SYSTEMS


def _only_folder(root: Path) -> Path:
    while True:
        inside = [path for path in root.iterdir() if is_shown(path.name)]
        if len(inside) != 1 or not inside[0].is_dir() or split_of_name(inside[0].name):
            return root
        root = inside[0]


def lines_of(path: Path) -> list[str]:
    """The stripped lines of a text file, without empty ones.

    Raises:
        InputError: the file is not UTF-8.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not valid UTF-8 ({error.reason}); save it as UTF-8') from None
    return [line.strip() for line in text.split('\n') if line.strip()]


def split_of_name(name: str) -> str | None:
    """'train', 'val' or 'test' if the name of a folder or file means one of them, else None."""
    match = _SPLIT_FOLDER.fullmatch(name)
    return match[1].lower() if match else None


def split_of(path: Path, root: Path) -> str | None:
    """The split that the names of a file's folders below `root` show; the innermost one decides."""
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    return next(filter(None, map(split_of_name, reversed(folders))), None)


def best_of(paths: list[Path], rank: Callable[[Path], tuple | int]) -> Path | None:
    """The path of the highest rank; None if there are several, or no path."""
    ranked = sorted(paths, key=rank, reverse=True)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        return None
    return ranked[0] if ranked else None


def shared_end(path: PurePath, other: PurePath) -> int:
    """The number of equal parts at the end of two paths."""
    pairs = zip(reversed(path.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def by_split(paths: Iterable[Path], root: Path) -> dict[str | None, list[Path]]:
    """Group files by the split of their folder; all are under None if there is only one group.

    Raises:
        InputError: only some of the files are in folders of splits.
    """
    groups: dict[str | None, list[Path]] = {}
    for path in paths:
        groups.setdefault(split_of(path, root), []).append(path)
    if len(groups) == 1:
        return {None: next(iter(groups.values()))}
    if None in groups:
        names = [name for name in SPLITS if name in groups]
        raise InputError(
            f'{root}: {len(groups[None])} annotated files are not in the folder of a split '
            f'({first_few(list(map(str, groups[None])), 1)}), but others are ({", ".join(names)}); '
            'move all of them into such folders, or none'
        )
    return {name: groups[name] for name in SPLITS if name in groups}
