"""Studies: rows of tables as configs, overrides and seeds, and the paths of their records.

A study is a file of `experiments/`::

    title: Faster R-CNN on MS COCO (the paper's table 6)
    metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}     # shown name: key in the test's log
    seeds: [0, 1, 2]
    data: COCO 2017 in data/coco                             # optional
    rows:
      resnet50:
        config: faster_rcnn_r50_c4
        paper: {AP: 27.0, AP50: 46.2}                        # in percent, as printed
      resnet50 + CBAM:
        config: ../mine/faster_rcnn_r50_c4_cbam.py
        against: resnet50
        overrides: {model.backbone.plugins.0.cfg.start: paper}
        paper: {AP: 28.1, AP50: 48.2}

`config` is a path, relative to the folder of the study or to the current folder, or the name of a
shipped config.

A row can start from the weights that another row has trained with the same seed, and can have its
own metrics::

      classifier:
        config: tiny_imagenet/resnet18_half
        metrics: {Top-1: accuracy/top1}
        scale: 1                                             # the metric is already in percent
      detector:
        config: faster_rcnn_r18_half_voc07
        weights: {model.backbone.init_cfg.checkpoint: classifier}

A run is a row with a seed. Its name consists of the config, a checksum of the overrides, and the
seed, so that studies with the same row share its runs; see `records.py`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

from mmengine.config import Config

from ..datasets.validation.data_root import set_data_root
from ..utils.config import PRETRAINED, find_config, kind_of, override, part_at, read_config
from ..utils.errors import InputError, first_few
from ..utils.installation import tool_command
from .study_file import check_values, read_yaml


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: name in the table.
        config: name of a shipped config, or a path: relative to the study's folder in the file,
            relative to the current folder after `read_study`.
        against: name of the baseline, the row that this one is compared with, or None.
        overrides: value by dotted key, passed as `--cfg-options`.
        seeds: one run for each.
        paper: results of the paper by metric, in percent as printed; {} if there are none.
        mmdet: results of mmdet's model zoo for the same detector, likewise.
        note: a remark.
        weights: row by dotted key of the config; the key is set to the last checkpoint of that
            row's run with the same seed.
        metrics: replaces the study's `metrics`, if not empty.
        scale: replaces the study's `scale`, if not None.
    """

    name: str
    config: str
    against: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    mmdet: Mapping[str, float] = field(default_factory=dict)
    note: str = ''
    weights: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    scale: float | None = None


@dataclass(frozen=True)
class Study:
    """A table of rows that are compared.

    Attributes:
        name: name of the file without its ending.
        title: title of the table.
        metrics: key in the test's log by the name in the table; the first metric gets the verdict.
        rows: rows by name; a baseline comes before the rows that are compared with it.
        data: the data sets that are needed, and the command that prepares them.
        images: number of images in an epoch without repetitions, for `plan`; else None.
        gpus: number of processes for which the configs' learning rates are chosen; None for any.
        note: a remark below the table.
        options: overrides for all rows.
        scale: factor from the logged metrics to percent.
    """

    name: str
    title: str
    metrics: Mapping[str, str]
    rows: Mapping[str, Row]
    data: str = ''
    images: int | None = None
    gpus: int | None = None
    note: str = ''
    options: Mapping[str, object] = field(default_factory=dict)
    scale: float = 100

    def runs(self, rows: Iterable[Row] | None = None) -> list[tuple[Row, int]]:
        """The runs of `rows`, by default of all: seed by seed, so that the finished ones can be
        compared in pairs at any time.
        """
        rows = list(self.rows.values() if rows is None else rows)
        seeds = sorted({seed for row in rows for seed in row.seeds})
        return [(row, seed) for seed in seeds for row in rows if seed in row.seeds]

    def metrics_of(self, row: Row) -> Mapping[str, str]:
        """The metrics of a row; the first one gets the verdict."""
        return row.metrics or self.metrics

    def scale_of(self, row: Row) -> float:
        """The factor from the row's logged metrics to percent."""
        return self.scale if row.scale is None else row.scale

    def baseline(self, row: Row) -> Row | None:
        """The row that `row` is compared with, or None."""
        return None if row.against is None else self.rows[row.against]

    def measured_alike(self) -> list[list[Row]]:
        """The rows in groups that have the same metrics."""
        groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
        for row in self.rows.values():
            groups.setdefault(tuple(self.metrics_of(row).items()), []).append(row)
        return list(groups.values())


# The keys in the file of a study, and those of its rows.
KEYS = {field.name for field in fields(Study)} - {'name'} | {'seeds'}
ROW_KEYS = {field.name for field in fields(Row)} - {'name'}


def read_study(path: str | Path) -> Study:
    """Read the file of a study.

    Raises:
        InputError: the file cannot be read; a key is unknown, missing, duplicate or of the wrong
            type; `--cfg-options` cannot pass an override; different configs have one name; or a row
            refers to a row that does not come before it, to an equal baseline, to a baseline with
            other metrics, or to weights of a row without the same seeds.
    """
    path = Path(path)
    content = read_yaml(path, KEYS, {'title', 'metrics', 'rows'})
    rows: dict[str, Row] = {}
    for name, row_options in content['rows'].items():
        check_values(f'{path}, row {name!r}', row_options, ROW_KEYS, {'config'})
        row = Row(name=name, **{'seeds': content.get('seeds', [0]), **row_options})
        if (relative := path.parent / row.config).is_file():
            row = replace(row, config=str(relative))
        if row.against is not None and row.against not in rows:
            raise InputError(
                f'{path}: {name!r} is compared with {row.against!r}, but there is no such row '
                f'before it; choose from {first_few(list(rows), 9) or "none"}'
            )
        base = rows[row.against] if row.against else None
        same = ('config', 'overrides', 'weights')
        if base and all(getattr(row, key) == getattr(base, key) for key in same):
            raise InputError(
                f'{path}: {name!r} is the same as {row.against!r}, its baseline; give it another '
                'config or overrides'
            )
        if base and (row.metrics, row.scale) != (base.metrics, base.scale):
            raise InputError(
                f'{path}: {name!r} is compared with {row.against!r}, which has other metrics; give '
                'both the same metrics and scale'
            )
        _check_weights(path, row, rows)
        rows[name] = row
    head = {key: content[key] for key in KEYS - {'rows', 'seeds'} if key in content}
    study = Study(name=path.stem, rows=rows, **head)
    _check_run_names(path, study)
    return study


def check_configs(path: Path, study: Study) -> None:
    """Check the configs of the rows.

    Args:
        path: the study's file.

    Raises:
        InputError: the config of a row is missing, or reads no file of weights where `weights` is
            to give it one.
    """
    for row in study.rows.values():
        try:
            find_config(row.config, announce=False)
        except InputError as error:
            raise InputError(
                f'{path}, row {row.name!r}: not found relative to this file, and {error}'
            ) from None
        for key in row.weights:
            _check_reads_weights(f'{path}, row {row.name!r}', key, config_of(study, row, 0))


def _check_reads_weights(place: str, key: str, cfg: Config) -> None:
    """Raise InputError if a config cannot read a file of weights at a key.

    Inside the model, the check before a training finds the options that nothing reads.
    """
    *path, last = key.split('.')
    owner = part_at(cfg.to_dict(), path)
    is_read = path[:1] in (['model'], ['custom_hooks']) and isinstance(owner, dict)
    if isinstance(owner, dict) and 'init_cfg' in path:
        is_read &= last == 'checkpoint' and kind_of(owner) in PRETRAINED
    if not is_read and key != 'load_from':
        raise InputError(
            f'{place}: the config reads no file of weights at {key} (weights); give load_from, or '
            'a key such as model.backbone.init_cfg.checkpoint, where init_cfg has the type '
            'Pretrained'
        )


def _check_weights(path: Path, row: Row, rows_before: Mapping[str, Row]) -> None:
    for key, name in row.weights.items():
        if name not in rows_before:
            raise InputError(
                f'{path}: {row.name!r} starts from the weights of {name!r}, but there is no such '
                f'row before it; choose from {first_few(list(rows_before), 9) or "none"}'
            )
        if missing := [seed for seed in row.seeds if seed not in rows_before[name].seeds]:
            raise InputError(
                f'{path}: {row.name!r} starts from the weights of {name!r}, which has no seed '
                f'{first_few(list(map(str, missing)))}; give both the same seeds'
            )
        if key in row.overrides:
            raise InputError(
                f'{path}: {row.name!r} has {key} in both overrides and weights; remove one of them'
            )


def _check_run_names(path: Path, study: Study) -> None:
    """Raise InputError if two rows have different configs of one name, and so the same runs."""
    rows: dict[str, Row] = {}
    for row, seed in study.runs():
        first = rows.setdefault(run_name(study, row, seed), row)
        if first.config != row.config:
            raise InputError(
                f'{path}: {first.name!r} and {row.name!r} have configs of the same name, which is '
                f'the name of the run: {first.config} and {row.config}; rename one of these '
                'files, or write the same path in both rows if it is one file'
            )


def options(study: Study, row: Row, seed: int) -> dict[str, object]:
    """The `--cfg-options` of a run."""
    return {**study.options, **row.overrides, 'randomness.seed': seed}


def run_name(study: Study, row: Row, seed: int) -> str:
    """The name of a run, which identifies its record and its work_dir."""
    overrides = {**study.options, **row.overrides}
    if row.weights:
        overrides['weights'] = {
            key: run_name(study, study.rows[name], seed).rpartition('-')[0]
            for key, name in row.weights.items()
        }
    parts = [Path(row.config).stem]
    if overrides:
        parts.append(hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8])
    return '-'.join([*parts, str(seed)])


def cost_path(results: Path, study: Study) -> Path:
    """The file for the times that `tools/experiment.py cost` measures."""
    return results / f'cost_{study.name}.json'


GATES = ('channel', 'spatial')


def gates_path(results: Path, study: Study) -> Path:
    """The file for the attention weights that `tools/experiment.py gates` measures."""
    return results / f'gates_{study.name}.json'


def focus_path(results: Path, study: Study) -> Path:
    """The file for the Grad-CAM shares that `tools/experiment.py focus` measures."""
    return results / f'focus_{study.name}.json'


def read_json(path: Path) -> dict:
    """A JSON file as a dict; {} if it does not exist."""
    try:
        return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f'{path} is not valid JSON ({error}); remove it, or restore it') from None


def command(
    study: Study,
    row: Row,
    seed: int,
    gpus: int = 0,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    name: str = 'run',
) -> str:
    """The shell command of a run, with the options `before` and `after` the command `name`."""
    if not gpus and study.gpus != 1:
        gpus = study.gpus or 0
    gpu_options = ['--gpus', str(gpus)] if gpus else []
    arguments = [name, study.name, '--row', row.name, '--seed', str(seed)]
    return tool_command('experiment', *before, *arguments, *gpu_options, *after)


def repeated_options(*names: str) -> list[str]:
    """Those options of this process's command line, with their values, for one that is printed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(name, dest=name)
    values = vars(parser.parse_known_args(sys.argv[1:])[0])
    return [word for name in names if values[name] is not None for word in (name, values[name])]


def command_of_study(name: str, study: Study, *options: object) -> str:
    """A `tools/experiment.py` command for a study, with the folders that this process was given."""
    before = repeated_options('--studies', '--results')
    return tool_command('experiment', *before, name, study.name, *options)


def command_here(study: Study, row: Row, seed: int, gpus: int = 0, name: str = 'run') -> str:
    """The command of a run, or of its repetition, with the folders that this process was given."""
    before = repeated_options('--studies', '--results')
    after = repeated_options('--data-root', '--work-dirs')
    return command(study, row, seed, gpus, before, after, name)


def check_gpus(study: Study, gpus: int) -> None:
    """Raise InputError if the study is made for another number of processes."""
    if study.gpus not in (None, max(gpus, 1)):
        raise InputError(
            f'{study.name} is made for --gpus {study.gpus}, not {max(gpus, 1)}, which would change '
            f'the batch size; give --gpus {study.gpus}, or change batch_size and gpus in the study'
        )


def config_of(study: Study, row: Row, seed: int, data_root: str | None = None) -> Config:
    """The config of a run, with its data in `data_root` if that is given."""
    cfg = override(copy.deepcopy(_read(row.config)), options(study, row, seed))
    if data_root:
        set_data_root(cfg, data_root)
    return cfg


@cache
def _read(config: str) -> Config:
    return read_config(config, announce=False)
