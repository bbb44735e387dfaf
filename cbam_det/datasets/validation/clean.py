"""Clean copies of annotation files, without the harmful faults."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ...utils.errors import InputError
from ...utils.files import atomic_write
from ...utils.options import cfg_options
from .clean_coco import clean_coco
from .clean_voc import clean_voc
from .content import REMEDIES, Clean, uncorrectable
from .splits import AnnotatedSplit


def clean(split: AnnotatedSplit) -> Clean:
    """Make clean copies of a split's annotation files, and the config options that use them.

    COCO: a JSON without unusable images and invalid boxes. Missing values are filled in: an image's
    size from its file, `area` from the box, `iscrowd` with 0, ids with unused numbers. Several
    entries of one image or one class are merged. VOC: a list without unusable images; if objects
    are removed or changed, or a size is corrected, also a folder `Annotations_clean` with the XML
    of every listed image. Images that are in two splits are left to the user.

    Raises:
        InputError: nothing would be left, a fault must be corrected by hand, or VOC's images do not
            have the names that mmdet reads.
    """
    check_correctable(split)
    return clean_voc(split) if split.is_voc else clean_coco(split)


def check_correctable(split: AnnotatedSplit) -> None:
    """Raise InputError if a fault of a split must be corrected by hand."""
    fault = uncorrectable(split.content)
    if fault is not None:
        raise InputError(f'{fault}; {REMEDIES[fault.kind]}')


def write_clean(files: dict[Path, bytes]) -> None:
    """Write the files of `clean`. If the process is killed, call it again to write the rest.

    Raises:
        InputError: one of the files exists with other content; it is not changed.
    """
    for path, data in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise InputError(f'{path} exists and has other content; move it away')
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_bytes(data)


def config_options(split: AnnotatedSplit, options: dict[str, str]) -> str:
    """The `--cfg-options` line that makes a config read the clean files.

    Its keys are the places of the config that read the split, or are guessed from the split's name.
    If several VOC folders are inside one folder, a config can join their lists in any way; then
    the line names the data set and its keys.
    """
    if split.places:
        return cfg_options(_options_at(split.places, split.evaluators, options))
    if split.sub_data_root:
        pairs = shlex.join(f'{key}={value}' for key, value in options.items())
        return f'in the data set of {split.name}: {pairs}'
    if split.role is None:
        lines = [_options_of(split, options, loaders) for loaders in (['train'], ['val', 'test'])]
        return '\n  or, if it is for validation and test:\n  '.join(lines)
    return _options_of(split, options, ['train'] if split.role == 'train' else ['val', 'test'])


def _options_of(split: AnnotatedSplit, options: dict[str, str], loaders: list[str]) -> str:
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
