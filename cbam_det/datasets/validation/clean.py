"""Clean copies of annotation files: what stands beside a split without what hurts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ...utils.errors import InputError
from ...utils.files import atomic_write
from ...utils.options import cfg_options
from .clean_coco import clean_coco
from .clean_voc import clean_voc
from .content import REMEDIES, Clean
from .splits import Split


def clean(split: Split) -> Clean:
    """The files that stand beside those of a split without what hurts, and the options for them.

    COCO: a JSON without the images that cannot be used and the boxes that are none; what can be
    told is filled in (an image's size from its file, `area` from the box, `iscrowd` 0, an id of its
    own), and several entries of an image or a class are joined. VOC: a list without such images;
    where objects are left out or changed or a size is put right, the folder `Annotations_clean`
    with the XML of every listed image. The same image in two splits is left to the user.

    Raises:
        InputError: nothing would be left, a fault has to be corrected by hand, or VOC's images have
            other names than mmdet reads.
    """
    check_correctable(split)
    return clean_voc(split) if split.is_voc else clean_coco(split)


def check_correctable(split: Split) -> None:
    """Raise InputError where a fault of a split has to be corrected by hand."""
    for fault in split.content.faults:
        if fault.kind in ('boxes in 0..1', 'no objects'):
            raise InputError(f'{fault}; {REMEDIES[fault.kind]}')
        if fault.kind == 'category entry':
            raise InputError(
                f'{fault}; correct the file by hand: only you know which class is meant'
            )


def write_clean(files: dict[Path, bytes]) -> None:
    """Write the files of `clean`; what a kill leaves out, the same call writes.

    Raises:
        InputError: one of them exists with another content, which stays.
    """
    for path, data in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise InputError(f'{path} exists and holds something else; move it away')
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_bytes(data)


def config_options(split: Split, options: dict[str, str]) -> str:
    """The `--cfg-options` line for clean files: for the config that names the split, or by what the
    split is called.

    Of a folder with folders of VOC, whose lists a config joins as it likes: the data set and its
    keys.
    """
    if split.places:
        return cfg_options(_options_at(split.places, split.evaluators, options))
    if split.sub_data_root:
        pairs = shlex.join(f'{key}={value}' for key, value in options.items())
        return f'in the data set of {split.name}: {pairs}'
    if split.role is None:
        lines = [_options_of(split, options, loaders) for loaders in (['train'], ['val', 'test'])]
        return '\n  or, where it is for validation and test:\n  '.join(lines)
    return _options_of(split, options, ['train'] if split.role == 'train' else ['val', 'test'])


def _options_of(split: Split, options: dict[str, str], loaders: list[str]) -> str:
    places = [f'{loader}_dataloader.dataset' for loader in loaders]
    evaluators = []
    if not split.is_voc:
        evaluators = [f'{loader}_evaluator' for loader in loaders if loader != 'train']
    return cfg_options(_options_at(places, evaluators, options))


def _options_at(
    places: Sequence[str], evaluators: Sequence[str], options: dict[str, str]
) -> dict[str, str]:
    """The options of data sets at `places`, and of evaluators that read the same annotations."""
    return {
        **{f'{place}.{key}': value for place in places for key, value in options.items()},
        **{f'{place}.ann_file': options['ann_file'] for place in evaluators},
    }
