"""Find the files that a command names, or say which is missing, with similar names.

The tools check these files before they import cbam_det, whose import takes seconds
(`cbam_det_tools.missing_files`). So this module, `errors`, `exits` and `installation` need the
standard library alone.
"""

from __future__ import annotations

import difflib
import glob
import os
from functools import partial
from pathlib import Path

from .errors import InputError, did_you_mean, first_few, near_hint
from .installation import shipped_folder, tool_command


def find_config_file(name: str) -> str:
    """The path of a config file.

    Args:
        name: a path, or the name of a shipped config with or without `.py`.

    Raises:
        InputError: there is no such config; the message lists similar names.
    """
    name = os.path.expanduser(name)
    if Path(name).is_file():
        return name
    folder = shipped_folder('configs')
    files = [*sorted(folder.glob('*.py')), *sorted(folder.glob('[a-z]*/*.py'))]
    shipped_configs = {path.relative_to(folder).with_suffix('').as_posix(): path for path in files}
    config_name = Path(name).as_posix().removesuffix('.py').removeprefix('configs/')
    if config_name in shipped_configs:
        return str(shipped_configs[config_name])
    neighbours = {path.stem: str(path) for path in sorted(Path(name).parent.glob('*.py'))}
    near_stems = difflib.get_close_matches(Path(name).stem, neighbours, 3)
    near_names = [neighbours[stem] for stem in near_stems]
    near_names = near_names or difflib.get_close_matches(Path(name).stem, shipped_configs, 3, 0.4)
    hint = f'choose from {first_few(list(shipped_configs))}'
    raise InputError(
        f'there is no config {name} in {Path.cwd()}, and none of that name in {folder}; '
        f'{did_you_mean(near_names) if near_names else hint}'
    )


def check_checkpoint_file(path: str, option: str) -> None:
    """Check that a checkpoint exists; a URL may.

    Args:
        path: the file or the URL.
        option: the option that gave it, for the message.

    Raises:
        InputError: there is no such file; the message lists the checkpoints of its folder.
    """
    if '://' in path or Path(path).is_file():
        return
    folder = Path(path).parent
    candidates = sorted(str(file) for file in folder.glob('*.pth')) if folder.is_dir() else []
    hint = f'train a model: {tool_command("train", "CONFIG")}'
    if candidates:
        hint = f'choose from {first_few(candidates)}'
    place = '' if option == 'checkpoint' else f' ({option})'
    raise InputError(f'the checkpoint {path}{place} does not exist; {hint}')


def check_image_file(path: str | Path) -> None:
    """Check that an image exists.

    Raises:
        InputError: there is no such file; the message has a similar name of its folder.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent
        files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
        hint = near_hint(path.name, files, 0.5)
        raise InputError(f'there is no image {path}; give the path of an image file{hint}')


def check_source(source: str) -> None:
    """Check that a file or folder exists; a pattern with `*` may.

    Raises:
        InputError: it does not exist.
    """
    if not Path(source).exists() and not glob.has_magic(source):
        raise InputError(f'{source} does not exist; give an image, a video or a folder')


def check_data_folder(folder: str | Path) -> None:
    """Check that a data folder exists.

    Raises:
        InputError: it does not exist, or is a file.
    """
    if Path(folder).is_file():
        raise InputError(f'{folder} is a file; unpack it if it is an archive, and give the folder')
    if not Path(folder).is_dir():
        raise InputError(f'no data folder {folder}; give the folder of your images and annotations')


def check_files(*files: tuple[str, str | Path | None]) -> None:
    """Check that the files of a command exist.

    Args:
        files: pairs of a kind and a path: 'config', 'image', 'source', 'data', or for a checkpoint
            the option that gave it. A pair without a path is skipped.

    Raises:
        InputError: for the first file that is missing.
    """
    checks = dict(
        config=find_config_file, image=check_image_file, source=check_source, data=check_data_folder
    )
    for kind, path in files:
        is_in_library = '::' in str(path)  # mmdet::FOLDER/CONFIG.py
        if path and not is_in_library:
            check = checks.get(kind) or partial(check_checkpoint_file, option=kind)
            check(str(path))
