"""The ledger: rows of tables as configs, overrides and seeds; their runs, records and verdicts.

A study is a file of `experiments/`:

    title: Faster R-CNN on MS COCO (the paper's table 6)
    metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}     # shown name: key in the test's log
    seeds: [0, 1, 2]
    data: COCO 2017 in data/coco                             # optional
    rows:
      resnet50:
        config: faster_rcnn_r50_c4
        paper: {AP: 27.0, AP50: 46.2}                        # in percent, as printed
      resnet50 + CBAM:
        config: faster_rcnn_r50_c4_cbam
        against: resnet50
        overrides: {model.backbone.plugins.0.cfg.start: paper}
        paper: {AP: 28.1, AP50: 48.2}

A run is a row with a seed. Its record lies in `results/experiments/` under the name of the config,
eight digits for the overrides, and the seed, so that tables which share a row share its runs. This
file imports no mmdet.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType

import numpy as np
import yaml
from mmengine.config import Config
from rich.progress import track
from rich.status import Status
from rich.text import Text
from scipy import stats

from .environment import shipped
from .errors import SIGNALS, InputError, Stopped, some, tell_ctrl_c
from .results import here, log_lines, table_row, write_record

# The command of the ledger, in a checkout or where the package is installed without one.
INSTALLED = shipped('tools').parent == Path(__file__).parent
PROGRAM = ['-m', 'cbam_det.tools.experiment'] if INSTALLED else ['tools/experiment.py']
KEYS = {
    *('title', 'metrics', 'seeds', 'data', 'images', 'gpus', 'rows', 'note', 'options'),
    *('tools', 'scale'),
}
ROW_KEYS = {'config', 'against', 'overrides', 'seeds', 'paper', 'note', 'mmdet'}
# Where a loop of MMEngine is, as it logs it.
PROGRESS = re.compile(r'\w+\((?:train|val|test)\).*eta: .*?(?=  )')
# What the keys hold that are no texts.
FORMS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(('metrics', 'rows'), (dict, 'a mapping with one entry or more')),
    **dict.fromkeys(('options', 'overrides', 'paper', 'mmdet'), (dict, 'a mapping')),
    **dict.fromkeys(('images', 'gpus'), (int, 'a whole number')),
    'seeds': (list, 'a list of whole numbers, each once'),
    'scale': ((int, float), 'a number'),
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: as the table prints it.
        config: a shipped config's name.
        against: the row that it is compared with, or None.
        overrides: what `--cfg-options` gets, by dotted key.
        seeds: one run each.
        paper: the paper's figures by metric, in percent as printed; {} where it has none.
        mmdet: those of mmdet's model zoo for the same detector.
        note: a remark for the table.
    """

    name: str
    config: str
    against: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    mmdet: Mapping[str, float] = field(default_factory=dict)
    note: str = ''


@dataclass(frozen=True)
class Study:
    """A table of the ledger.

    Attributes:
        name: of its file.
        title: over the table.
        metrics: by the name that is shown, the key in the test's log.
        rows: by name, baselines before what is compared with them.
        data: what it needs, and the command that prepares it.
        images: how many images an epoch has, before a RepeatDataset; None where nothing is planned.
        gpus: processes that the configs' learning rates and steps are made for; None for any.
        note: a remark below the table.
        options: overrides that all rows have.
        tools: 'cbam_det', or 'mmpretrain' for its tools by mim.
        scale: from the metrics to percent.
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
    tools: str = 'cbam_det'
    scale: float = 100


def read_study(path: str | Path) -> Study:
    """Read a file of the ledger.

    Raises:
        InputError: it cannot be read, a key is unknown, missing, twice there or of another type,
            a row is compared with none that stands before it, or with one that is the same.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _Unique)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f'{path} cannot be read as YAML ({error})'.replace('\n', ' ')) from None
    _check_keys(path, content, KEYS, {'title', 'metrics', 'rows'})
    rows: dict[str, Row] = {}
    for name, given in content['rows'].items():
        _check_keys(f'{path}, row {name!r}', given, ROW_KEYS, {'config'})
        row = Row(name=name, **{'seeds': content.get('seeds', [0]), **given})
        if row.against is not None and row.against not in rows:
            raise InputError(
                f'{path}: {name!r} stands against {row.against!r}, which is no row before it; the '
                f'rows before it are {some(list(rows), 9)}'
            )
        base = rows.get(row.against)
        if base and (row.config, row.overrides) == (base.config, base.overrides):
            raise InputError(f'{path}: {name!r} is the same as {row.against!r}, its baseline')
        rows[name] = row
    head = {key: content[key] for key in KEYS - {'rows', 'seeds'} if key in content}
    return Study(name=path.stem, rows=rows, **head)


def _check_keys(where: object, given: object, known: set[str], needed: set[str]) -> None:
    keys = set(given) if isinstance(given, dict) else set()
    if not needed <= keys <= known:
        raise InputError(
            f'{where}: it takes the keys {", ".join(sorted(known))} and needs '
            f'{", ".join(sorted(needed))}; found {", ".join(sorted(map(str, keys))) or given!r}'
        )
    for key, value in given.items():
        kind, form = FORMS.get(key, (str, 'a text'))
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if fits and key == 'seeds':
            fits = all(type(one) is int for one in value) and len({*value}) == len(value) > 0
        if not fits or (key in ('metrics', 'rows') and not value):
            raise InputError(f'{where}: {key} takes {form}; found {value!r}')


class _Unique(yaml.SafeLoader):
    """YAML in which a key stands once: of two rows of a name the last would be taken."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(f'{some(list(map(repr, twice)))} twice{node.start_mark}')
        return super().construct_mapping(node, deep)


def run_name(study: Study, row: Row, seed: int) -> str:
    """The name of a run's record and work_dir."""
    own = json.dumps({**study.options, **row.overrides}, sort_keys=True)
    digits = [hashlib.sha256(own.encode()).hexdigest()[:8]] * (own != '{}')
    return '-'.join([Path(row.config).stem, *digits, str(seed)])


def record_path(results: Path, study: Study, row: Row, seed: int) -> Path:
    """Where the record of a run lies."""
    return results / f'{run_name(study, row, seed)}.json'


def read_record(results: Path, study: Study, row: Row, seed: int) -> dict | None:
    """The record of a run, or None where there is none yet."""
    path = record_path(results, study, row, seed)
    return recorded(path) if path.is_file() else None


def options(study: Study, row: Row, seed: int) -> dict[str, object]:
    """What `--cfg-options` gets in a run."""
    return {**study.options, **row.overrides, 'randomness.seed': seed}


def config_hash(study: Study, row: Row, seed: int) -> str:
    """Twelve digits that name a run's config, overrides included; paths of data change nothing."""
    cfg = json.dumps(_config(study, row, seed).to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(cfg.encode()).hexdigest()[:12]


def _config(study: Study, row: Row, seed: int, data_root: str | None = None) -> Config:
    from .cli import override
    from .preflight import set_data_root

    cfg = override(copy.deepcopy(_read(row.config)), options(study, row, seed))
    if data_root:
        set_data_root(cfg, data_root)
    return cfg


@cache
def _read(config: str) -> Config:
    from .cli import read_config

    return read_config(config)


def data_digits(study: Study, row: Row, seed: int, data_root: str | None) -> dict[str, str]:
    """By split the `fingerprint` of the data that a run reads; {} for another library's tools."""
    from .datasets.checks import fingerprint, leaf_datasets

    if study.tools != 'cbam_det':
        return {}
    cfg = _config(study, row, seed, data_root)
    return {
        split: '+'.join(map(fingerprint, leaf_datasets(cfg[f'{split}_dataloader'].dataset)))
        for split in ('train', 'val', 'test')
    }


def check_gpus(study: Study, gpus: int) -> None:
    """Raise InputError where the study is made for another number of processes."""
    if study.gpus not in (None, max(gpus, 1)):
        raise InputError(
            f'{study.name} is made for --gpus {study.gpus}, and {max(gpus, 1)} would train on '
            f'another batch; give that, or change batch_size and gpus in its file'
        )


def run(
    study: Study,
    row: Row,
    seed: int,
    results: Path,
    work_dirs: Path,
    gpus: int = 0,
    data_root: str | None = None,
) -> dict:
    """Train and test a row with a seed, and write its record; an interrupted run goes on.

    Args:
        results: folder of the records.
        work_dirs: folder of the runs' work_dirs.
        gpus: processes; `tools/dist_train.sh` starts more than one.
        data_root: folder to read instead of the config's.

    Returns:
        The record, of this run or of one that is done already.

    Raises:
        InputError: the study is made for another number of processes; a tool failed, or the test
            gave no metrics, and its log is named.
    """
    check_gpus(study, gpus)
    if data_root and study.tools != 'cbam_det':
        raise InputError(f"--data-root is not for {study.tools}'s tools; its configs name the data")
    if (done := read_record(results, study, row, seed)) is not None:
        check_records(study, results, [(row, seed)])
        return done
    digest = config_hash(study, row, seed)
    data = data_digits(study, row, seed, data_root)
    folder = work_dirs / run_name(study, row, seed)
    what = dict(config_hash=digest, gpus=max(gpus, 1), data_root=data_root)
    with _claimed(folder, what) as commit:
        pairs = [f'{key}={_text(value)}' for key, value in options(study, row, seed).items()]
        common = ['--work-dir', str(folder), '--cfg-options', *pairs]
        if data_root:
            common = ['--data-root', data_root, *common]
        memory = _call(study, 'train', row.config, [], ['--resume', *common], folder, gpus)
        last = _last_checkpoint(folder)
        first = [last] if study.tools == 'cbam_det' else ['--checkpoint', last]
        _call(study, 'test', row.config, first, common, folder, gpus)
    logged, metrics = list(log_lines(folder)), _metrics(folder)
    if lacking := set(study.metrics.values()) - set(metrics):
        raise InputError(
            f'the test logged no {some(sorted(lacking))}, which mmdet leaves out where the '
            f'detector finds nothing at all; see {folder / "test.log"}'
        )
    record = dict(
        seed=seed,
        config=row.config,
        overrides=dict(options(study, row, seed)),
        config_hash=digest,
        data=data,
        commit=commit,
        processes=max(gpus, 1),
        train_seconds=_seconds(logged),
        memory_mib=int(max((line.get('memory', 0) for line in logged), default=0) or memory),
        loss=_losses(logged),
        validation=_validation(logged),
        metrics=metrics,
    )
    path = record_path(results, study, row, seed)
    return write_record(path, command(study, row, seed, gpus), record)


def _last_checkpoint(folder: Path) -> str:
    """Of a run, in its folder wherever that was moved."""
    return str(folder / Path((folder / 'last_checkpoint').read_text().strip()).name)


@contextmanager
def _claimed(folder: Path, what: dict) -> Iterator[str]:
    """A work_dir for one command at a time, and for one config, batch and data for ever.

    Yields:
        The commit of the code with which its training began.

    Raises:
        InputError: it is of another run, or a command is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'run.json').open('a+', encoding='utf-8') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f'another command is at work in {folder}; let it end') from None
        stream.seek(0)
        text = stream.read()
        found = json.loads(text or '{}')
        commit = found.pop('commit', _commit())
        if text and found != what:
            raise InputError(
                f'{folder} is of another run ({text}), not {json.dumps(what)}; remove it, or keep '
                'it by another --work-dirs'
            )
        if not text:
            stream.write(json.dumps(dict(what, commit=commit)))
            stream.flush()
        yield commit


def repeat(
    study: Study,
    row: Row,
    seed: int,
    results: Path,
    work_dirs: Path,
    gpus: int = 0,
    data_root: str | None = None,
) -> dict[str, tuple[object, object]]:
    """Run a recorded run anew, beside it, and tell what came out otherwise; an interrupted one
    goes on.

    Returns:
        By name the recorded and the new value of metrics, validations and losses that differ; {}
        where all are equal to the last bit that the logs print.

    Raises:
        InputError: the run is not recorded, or on other data, a repetition lies there already, or
            a tool failed.
    """
    before = read_record(results, study, row, seed)
    if before is None:
        path = record_path(results, study, row, seed)
        raise InputError(f'no record {path}; make it: {command(study, row, seed, gpus)}')
    folder = work_dirs / 'repeat'
    inside = folder / run_name(study, row, seed) / 'record'  # removed with the run
    if read_record(inside, study, row, seed) is not None:
        raise InputError(f'{inside.parent} is there; remove it')
    check_records(study, results, [(row, seed)])
    data = data_digits(study, row, seed, data_root)
    if (of := before.get('data', data)) != data:
        raise InputError(
            f'the record is of other data ({of}) than what is read here ({data}); give its folder '
            'by --data-root'
        )
    again = run(study, row, seed, inside, folder, gpus, data_root)
    old, new = (_flat(one) for one in (before, json.loads(json.dumps(again))))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in keys}


def elsewhere(record: dict) -> str:
    """What of a record's machine is otherwise here, where sums may be rounded otherwise; or ''."""
    there, now = record['environment'], here()
    keys = ('hardware', 'threads', 'torch')
    return '; '.join(
        f'{key} {there.get(key)}, here {now[key]}' for key in keys if there.get(key) != now[key]
    )


def _flat(record: dict) -> dict[str, float]:
    flat = {f'test {key}': value for key, value in record['metrics'].items()}
    flat |= {f'loss of epoch {epoch}': value for epoch, value in record['loss'].items()}
    for epoch, metrics in record['validation'].items():
        flat |= {f'validation {epoch} {key}': value for key, value in metrics.items()}
    return flat


def stale(study: Study, results: Path, runs: Iterable[tuple[Row, int]] = ()) -> list[Path]:
    """The records that are of another config than their row's, as it is now.

    Args:
        runs: rows and seeds; all of the study where none is given.
    """
    every = ((row, seed) for row in study.rows.values() for seed in row.seeds)
    return [
        record_path(results, study, row, seed)
        for row, seed in runs or every
        if (record := read_record(results, study, row, seed)) is not None
        and record['config_hash'] != config_hash(study, row, seed)
    ]


def check_records(study: Study, results: Path, runs: Iterable[tuple[Row, int]] = ()) -> None:
    """Raise InputError where a record of `runs` is `stale`, or those of a row or its baseline are
    of different data.
    """
    if found := stale(study, results, runs):
        raise InputError(
            f'{len(found)} records are of another config than their row has now '
            f'({some(list(map(str, found)))}); remove them and their work_dirs to run them anew'
        )
    for row in study.rows.values():
        compared = (row, study.rows.get(row.against, row))
        paths = [record_path(results, study, one, seed) for one in compared for seed in one.seeds]
        of = {path: data for path in paths if (data := recorded(path).get('data'))}
        for path, data in of.items():
            first = next(iter(of))
            if data != of[first]:
                raise InputError(
                    f'{path} is of other data ({data}) than {first} ({of[first]}); remove the one '
                    'that is wrong, and its work_dir'
                )


def cost_path(results: Path, study: Study) -> Path:
    """Where the times of a study's rows lie, which `tools/experiment.py cost` measures."""
    return results / f'cost_{study.name}.json'


def costs(study: Study, results: Path, rounds: int, device: str) -> dict:
    """Measure a training step and inference of every row, in alternation, and write the record.

    Trainings are no measure: what else their machine does, and when, is in their times.
    """
    from .benchmark import detectors

    configs = {name: _config(study, row, row.seeds[0]) for name, row in study.rows.items()}
    batch = next(iter(configs.values())).train_dataloader.batch_size
    record = detectors(configs, rounds, device, batch=batch)
    said = shlex.join(['python', *PROGRAM, 'cost', study.name])
    return write_record(cost_path(results, study), said, record)


GATES = ('channel', 'spatial')


def gates_path(results: Path, study: Study) -> Path:
    """Where the weights of a study's gates lie, which `tools/experiment.py gates` takes."""
    return results / f'gates_{study.name}.json'


def gate_weights(
    study: Study, results: Path, work_dirs: Path, count: int, data_root: str | None = None
) -> dict:
    """Take the weights of all CBAMs after the trainings that are recorded, and write the record.

    Args:
        work_dirs: where the runs and their last checkpoints lie.
        count: images, evenly over the validation set.
        data_root: folder to read instead of the configs'.

    Returns:
        'images' and 'rows': by row and gate the 5%, 50% and 95% quantiles of the weights, means
        over its runs.

    Raises:
        InputError: no run with attention is recorded, or the checkpoint of one is gone.
    """
    rows: dict[str, dict] = {}
    for row in study.rows.values():
        runs = [seed for seed in row.seeds if read_record(results, study, row, seed) is not None]
        for seed in track(runs, row.name, transient=True):
            folder = work_dirs / run_name(study, row, seed)
            for gate, found in _weights(study, row, seed, folder, count, data_root).items():
                rows.setdefault(row.name, {}).setdefault(gate, []).append(found)
    if not rows:
        raise InputError(f'no run of {study.name} with attention is recorded in {results}')
    means = {
        name: {gate: np.mean(found, axis=0).round(4).tolist() for gate, found in gates.items()}
        for name, gates in rows.items()
    }
    said = shlex.join(['python', *PROGRAM, 'gates', study.name])
    return write_record(gates_path(results, study), said, dict(images=count, rows=means))


def _weights(
    study: Study, row: Row, seed: int, folder: Path, count: int, data_root: str | None
) -> dict[str, np.ndarray]:
    """Quantiles of the weights after a run, by gate; {} of a row without attention."""
    from .hooks.audit import named_cbams
    from .visualization.attention import gates
    from .visualization.detections import dataset_of, evenly
    from .visualization.subject import Subject

    if not (folder / 'last_checkpoint').is_file():
        raise InputError(f'{folder} holds no checkpoint; give the --work-dirs of the runs')
    cfg = _config(study, row, seed, data_root)
    subject = Subject(cfg, _last_checkpoint(folder))
    if not dict(named_cbams(subject.model)):
        return {}
    dataset = dataset_of(cfg, 'val')
    seen: dict[str, list[np.ndarray]] = {}
    for index in evenly(len(dataset), count):
        view = subject.see(dataset.get_data_info(index)['img_path'])
        for one in gates(subject.model, view.data):
            for gate in GATES:
                if (weights := getattr(one, gate)) is not None:
                    seen.setdefault(gate, []).append(weights.ravel())
    return {
        gate: np.quantile(np.concatenate(all_), (0.05, 0.5, 0.95)) for gate, all_ in seen.items()
    }


def command(
    study: Study,
    row: Row,
    seed: int,
    gpus: int = 0,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> str:
    """The shell command of a run; `before` and `after` are options before `run` and at the end."""
    gpus = gpus or (study.gpus or 0) * (study.gpus != 1)
    last = ['--gpus', str(gpus)] * bool(gpus)
    what = ['run', study.name, '--row', row.name, '--seed', str(seed)]
    return shlex.join(['python', *PROGRAM, *before, *what, *last, *after])


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _metrics(folder: Path) -> dict[str, float | None]:
    """What the last test logged, as MMEngine writes it for any library: <time>/<time>.json."""
    logs = [path for path in folder.glob('*/*.json') if path.stem == path.parent.name]
    text = max(logs, key=lambda path: path.parent.name).read_text(encoding='utf-8')
    numbers = json.loads(text.splitlines()[-1])
    # mmdet's number for a class that the set lacks is none of JSON.
    return {key: None if value != value else value for key, value in numbers.items() if '/' in key}


def _call(
    study: Study,
    name: str,
    config: str,
    first: list[str],
    last: list[str],
    folder: Path,
    gpus: int,
) -> int:
    """Run a tool to its end; MiB that its largest process held at most.

    Raises:
        InputError: it did not end well.
        Stopped: by a signal, which it was given to write its checkpoint.
    """
    from .cli import find_config

    tools = shipped('tools')
    if study.tools == 'mmpretrain':
        launch = ['--launcher', 'pytorch'] * (gpus > 1)
        shell = ['mim', name, 'mmpretrain', find_config(config), *first]
        shell += ['--gpus', str(gpus), *launch]
    elif gpus > 1:
        shell = ['bash', str(tools / f'dist_{name}.sh'), config, *first, str(gpus)]
    else:
        shell = [sys.executable, str(tools / f'{name}.py'), config, *first]
    log = folder / f'{name}.log'
    begin = log.stat().st_size if log.is_file() else 0
    with log.open('a', encoding='utf-8') as stream:
        # Our trainings stop by themselves and need their workers until then; others are all told.
        listens = name == 'train' and study.tools == 'cbam_det'
        shown = Status(LastLine(log, begin), refresh_per_second=2)
        with _passed_on(listens) as watch, shown:
            child = subprocess.Popen(
                [*shell, *last], stdout=stream, stderr=stream, start_new_session=True
            )
            watch(child.pid)
            _, status, usage = os.wait4(child.pid, 0)  # as wait(), and what this child alone used
    child.returncode = os.waitstatus_to_exitcode(status)
    number = child.returncode - 128 if child.returncode > 0 else -child.returncode
    if number in SIGNALS:
        raise Stopped(f'stopped by {signal.Signals(number).name}; the same command goes on', number)
    if child.returncode:
        said = log.read_bytes()[begin:].decode(errors='replace').splitlines()
        errors = [line for line in said if line.startswith('error: ')]
        said = errors[-1].removeprefix('error: ') if errors else f'exit status {child.returncode}'
        raise InputError(f'tools/{name}.py did not end well ({said}); see {log}')
    return usage.ru_maxrss // 1024


class LastLine:
    """Rich's view of a tool's progress, in one line: the last in its log, from the byte `begin`
    on, that tells an eta.
    """

    def __init__(self, log: Path, begin: int = 0) -> None:
        self.log, self.begin = log, begin

    def __rich__(self) -> Text:
        found = []
        with contextlib.suppress(OSError), self.log.open('rb') as stream:
            stream.seek(max(self.begin, stream.seek(0, os.SEEK_END) - 65536))
            found = PROGRESS.findall(stream.read().decode(errors='replace'))
        last = ' '.join(found[-1].split()) if found else 'begins'
        return Text(f'{last}, {self.log}', no_wrap=True, overflow='ellipsis')


@contextmanager
def _passed_on(listens: bool) -> Iterator[Callable[[int], None]]:
    """Give signals to a process, which has a session of its own, instead of obeying them.

    What this process ignores (`nohup`, a script's background) it goes on ignoring.

    Args:
        listens: the process stops by itself with a checkpoint; else its children are told too.

    Yields:
        What to call with its id; signals that came before are given to it then.
    """
    send = os.kill if listens else os.killpg
    child: list[int] = []
    early: list[int] = []
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and listens and not told:
            told.append(number)
            tell_ctrl_c()
        if not child:
            early.append(number)
        for one in child:
            with contextlib.suppress(ProcessLookupError):
                send(one, number)

    def watch(pid: int) -> None:
        child.append(pid)
        while early:
            send(pid, early.pop(0))

    names = ('SIGHUP', 'SIGQUIT')  # of a terminal, of which the process has none
    numbers = [*SIGNALS, *(getattr(signal, name) for name in names if hasattr(signal, name))]
    obeyed = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in obeyed}
    try:
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _commit() -> str:
    """The commit of the code, with + where files differ from it; '' outside a checkout."""
    here = Path(__file__).parent
    git = ['git', '-C', str(here)]
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    if head.returncode:
        return ''
    changed = subprocess.run(
        [*git, 'status', '--porcelain', '-uno', '--', '.', '../configs'],
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + '+' * bool(changed.stdout.strip())


def _seconds(logged: list[dict]) -> int:
    """Of all training steps, by the log; a resumed run counts each of them once."""
    lines = {line['step']: line['time'] for line in logged if 'loss' in line}
    steps = sorted(lines)
    return round(sum(lines[step] * (step - last) for last, step in pairwise([0, *steps])))


def _losses(logged: list[dict]) -> dict[int, float]:
    """The mean of the losses logged in each epoch, or where steps alone are counted in each
    twentieth of them, by its last step.
    """
    lines = {line['step']: line for line in logged if 'loss' in line}  # resumed: the later one
    part = math.ceil(max(lines, default=1) / 20)
    means: dict[int, list[float]] = {}
    for step, line in sorted(lines.items()):
        means.setdefault(line.get('epoch', math.ceil(step / part) * part), []).append(line['loss'])
    return {place: round(statistics.mean(losses), 5) for place, losses in means.items()}


def _validation(logged: list[dict]) -> dict[int, dict[str, float]]:
    """The metrics of each validation, by epoch or step; the test's are logged at step 0."""
    return {
        line['step']: {key: value for key, value in line.items() if '/' in key}
        for line in logged
        if 'loss' not in line and line.get('step')
    }


@dataclass(frozen=True)
class Comparison:
    """A row against its baseline, paired by seeds.

    Attributes:
        count: seeds that both have, n.
        mean: of the differences.
        low, high: ends of the 95% interval of that mean, by Student's t; None below two seeds.
        p: of the paired t-test; None below two seeds, or where all differences are the same.
    """

    count: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def verdict(self) -> str:
        """What the interval says, for a metric of which more is better."""
        if self.low is None:
            return 'one seed: nothing'
        if self.low == self.high:
            return 'all pairs alike: nothing'
        return 'helps' if self.low > 0 else 'hurts' if self.high < 0 else 'no difference seen'


def compare(ours: Mapping[int, float], base: Mapping[int, float]) -> Comparison | None:
    """Two rows' values by seed; None where they share no seed."""
    seeds = sorted(set(ours) & set(base))
    if not seeds:
        return None
    gaps = [ours[seed] - base[seed] for seed in seeds]
    mean, low, high = mean_interval(gaps)
    if low is None:
        return Comparison(len(seeds), mean)
    # Where all are the same, the t-test divides by 0.
    p = None if low == high else float(stats.ttest_1samp(gaps, 0).pvalue)
    return Comparison(len(seeds), mean, low, high, p)


def mean_interval(numbers: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean and the ends of its 95% interval by Student's t; None below two numbers."""
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return mean, None, None
    reach = float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))
    reach *= np.ptp(numbers) > 1e-9  # what is left where all are the same is rounding
    return mean, mean - reach, mean + reach


def values(study: Study, row: Row, results: Path, metric: str) -> dict[int, float]:
    """A metric of a row by seed, in percent, of the runs that are recorded."""
    found = {}
    for seed in row.seeds:
        record = read_record(results, study, row, seed)
        value = record and record['metrics'].get(study.metrics[metric])
        if value is not None:
            found[seed] = study.scale * value
    return found


def table(study: Study, results: Path) -> str:
    """The study as a Markdown table, in percent, and what made it.

    By metric the mean and the standard deviation over the seeds, and the difference to the row's
    baseline, paired by seeds, with its 95% interval; of the first metric, which is the measure, the
    p of the paired t-test and the verdict too; the paper's difference and mmdet's figure beside it,
    where there are any; and the weights of the gates, where they are recorded.
    """
    first, *_ = study.metrics
    paper, mmdet = (any(getattr(row, key) for row in study.rows.values()) for key in BESIDE)
    others = [name for name in study.metrics if name != first]
    compared = any(row.against for row in study.rows.values())
    head = ['', 'n', *study.metrics, f'{first}, difference', 'p', 'says']
    head += [f'{name}, difference' for name in others] * compared
    head += [f"paper's {first}", 'diff.'] * paper + [f"mmdet's {first}"] * mmdet
    weights = recorded(gates_path(results, study)).get('rows', {})
    head += [f'{gate} weights' for gate in GATES] * bool(weights)
    lines = [table_row(head), table_row(['---', *['---:'] * (len(head) - 1)])]
    for row in study.rows.values():
        cells = []
        for metric in study.metrics:
            numbers = list(values(study, row, results, metric).values())
            spread = f' ± {np.std(numbers, ddof=1):.2f}' if len(numbers) > 1 else ''
            cells.append(f'{np.mean(numbers):.2f}{spread}' if numbers else '')
        count = len(values(study, row, results, first))
        cells += _difference(study, row, results, first)
        cells += [_difference(study, row, results, name)[0] for name in others] * compared
        cells += _theirs(study, row, first) * paper
        cells += [_printed(row.mmdet.get(first))] * mmdet
        cells += [_range(weights.get(row.name, {}).get(gate)) for gate in GATES] * bool(weights)
        lines.append(table_row([row.name, count, *cells]))
    return '\n'.join([*lines, '', *_origin(study, results)])


BESIDE = ('paper', 'mmdet')


def _origin(study: Study, results: Path) -> list[str]:
    """Below the table: how many runs, their cost and machines, the study's note."""
    found = records(study, results)
    wanted = sum(len(row.seeds) for row in study.rows.values())
    lines = [f'{len(found)} of {wanted} runs recorded']
    if found:
        seconds = statistics.median(one['train_seconds'] for one in found)
        where = {
            f'{at["hardware"]}, {at["threads"]} threads, torch {at["torch"]}'.replace(
                ' 1 threads', ' 1 thread'
            )
            for at in (one['environment'] for one in found)
        }
        commits = sorted({one['commit'][:7] for one in found if one.get('commit')})
        where = [*sorted(where), *(f'commit {one}' for one in commits)]
        lines[0] += f', a training {seconds / 60:.1f} minutes (median); {"; ".join(where)}'
    with_gpus = f' --gpus {study.gpus}' if (study.gpus or 1) > 1 else ''
    lines[0] += f'. `{shlex.join(["python", *PROGRAM])} run {study.name}{with_gpus}`'
    first, *_ = study.metrics
    seen = [(row, difference(study, row, results, first)) for row in study.rows.values()]
    tests = sum(one is not None and one.count == _pairs(study, row) > 1 for row, one in seen)
    if tests:
        chance = 100 * (1 - 0.95**tests)
        lines[0] += (
            f'. {first} is the measure: where there is no effect, a comparison says helps or hurts '
            '5% of the time'
        )
        lines[0] += f', one or more of {tests} up to {chance:.0f}%' * (tests > 1)
    if left := _orphans(study, results):
        lines[0] += f'. Records of rows or seeds that the study has no more: {len(left)}'
    if taken := recorded(gates_path(results, study)):
        lines[0] += (
            '. Weights: of all CBAMs after the training, 5% to 95%, means over the runs, on '
            f'{taken["images"]} validation images (`{taken["command"]}`)'
        )
    return lines + ['', study.note] * bool(study.note)


def recorded(path: Path) -> dict:
    """A JSON file of records; {} where there is none."""
    try:
        return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f'{path} is no JSON ({error}); remove it, or get it back') from None


def _range(quantiles: Sequence[float] | None) -> str:
    return '' if quantiles is None else f'{quantiles[0]:.2f} to {quantiles[-1]:.2f}'


def records(study: Study, results: Path) -> list[dict]:
    """The records of a study's runs, those that there are."""
    runs = ((row, seed) for row in study.rows.values() for seed in row.seeds)
    found = (read_record(results, study, row, seed) for row, seed in runs)
    return [record for record in found if record is not None]


def _orphans(study: Study, results: Path) -> list[Path]:
    """The records that runs of the study left and none of its rows reads."""
    known = {
        record_path(results, study, row, seed) for row in study.rows.values() for seed in row.seeds
    }
    said = shlex.join(['run', study.name, '--row'])
    others = [path for path in sorted(results.glob('*.json')) if path not in known]
    return [path for path in others if said in recorded(path).get('command', '')]


def difference(study: Study, row: Row, results: Path, metric: str) -> Comparison | None:
    """A row against its baseline, in percent; None where it has none, or no run of both."""
    if row.against is None:
        return None
    rows = (row, study.rows[row.against])
    return compare(*(values(study, one, results, metric) for one in rows))


def _difference(study: Study, row: Row, results: Path, metric: str) -> list[str]:
    seen = difference(study, row, results, metric)
    if seen is None:
        return [''] * 3
    between = '' if seen.low is None else f' ({seen.low:+.2f} to {seen.high:+.2f})'
    if seen.count != len(values(study, row, results, metric)):
        between += f', {seen.count} pairs'
    p = '' if seen.p is None else '< 0.001' if seen.p < 0.001 else f'{seen.p:.3f}'
    planned = _pairs(study, row)
    early = f'{seen.count} of {planned} pairs: nothing yet'  # a few rounded values may all agree
    says = early if seen.count < planned else seen.verdict
    return [f'{round(seen.mean, 2) + 0:+.2f}{between}', p, says]


def _pairs(study: Study, row: Row) -> int:
    return len(set(row.seeds) & set(study.rows[row.against].seeds))


def _theirs(study: Study, row: Row, metric: str) -> list[str]:
    paper = row.paper.get(metric)
    gap = study.rows[row.against].paper.get(metric) if row.against else None
    return [_printed(paper), '' if None in (paper, gap) else f'{paper - gap:+.2f}']


def _printed(value: float | None) -> str:
    return '' if value is None else f'{value:g}'
