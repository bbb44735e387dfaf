"""The records of runs: a file for each study, a line of JSON for each run.

`results/experiments/NAME.jsonl` holds the runs of `experiments/NAME.yaml`, in the order in which
they finished. A run that is also part of another study is read from that study's file. Each record
has the `config_hash` of its config: if a row's config has changed since in a way that affects the
numbers, the record is refused.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..datasets.validation.fingerprint import fingerprint
from ..engine.own_hooks import OWN_HOOKS
from ..utils.config import kind_of, part_at
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.run_config import RunConfig
from .record_format import check_record
from .study import Row, Study, config_of, run_name

# The parts of a config that affect a run's numbers. The others name, log, draw and save.
# fmt: off
DETERMINING_KEYS = (
    'model', 'data_preprocessor', 'default_scope', 'optim_wrapper', 'param_scheduler',
    'auto_scale_lr', 'randomness', 'load_from', 'compile', 'efficient_conv_bn_eval',
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator',
    'train_cfg', 'val_cfg', 'test_cfg', 'custom_hooks', 'default_hooks', 'channels_last',
    'sync_bn', 'model_wrapper_cfg', 'env_cfg', 'runner_type', 'strategy',
)
# Hooks that do not affect the numbers, and keys that only give a location.
PASSIVE_HOOKS = {
    'IterTimerHook', 'LoggerHook', 'CheckpointHook', 'ParamSchedulerHook', 'DistSamplerSeedHook',
    'DetVisualizationHook', 'VisualizationHook', 'NumClassCheckHook', 'AtomicCheckpointHook',
    'AttentionAuditHook', 'AttentionMapsHook', 'ExactResumeHook', 'FiniteLossesHook',
    'RunReportHook', 'StopSignalsHook', 'TerminalHook',
}
# fmt: on
LOCATION_KEYS = ('_scope_', 'data_root', 'backend_args')
# What must be equal in the runs of a row and its baseline.
EQUAL_KEYS = {'data': 'other data', 'processes': 'another number of processes'}
# The folder of the runs' work_dirs, if the command line names no other.
WORK_DIRS = Path('work_dirs/experiments')


def records_path(results: Path, study: Study) -> Path:
    """The file with the records of a study's runs."""
    return results / f'{study.name}.jsonl'


def read_record(results: Path, study: Study, row: Row, seed: int) -> dict | None:
    """The record of a run, or None if the run is not recorded.

    Raises:
        InputError: two files have different records of it, or a file is damaged.
    """
    return _find(results, study, row, seed)[1]


def place_of(results: Path, study: Study, row: Row, seed: int) -> str:
    """The file of a record and the name of its run, for messages."""
    return f'{_find(results, study, row, seed)[0]}, {run_name(study, row, seed)}'


def removal(results: Path, study: Study, row: Row, seed: int, work_dirs: Path) -> str:
    """What has to be removed before a recorded run can be run again, for messages."""
    name = run_name(study, row, seed)
    path, _ = _find(results, study, row, seed)
    return f'the line of {name} in {path} and the folder {work_dirs / name}'


def _find(results: Path, study: Study, row: Row, seed: int) -> tuple[Path, dict | None]:
    """The file with the record of a run, by default the study's own, and the record."""
    name = run_name(study, row, seed)
    places = [(path, records[name]) for path, records in _files(results, study) if name in records]
    for path, record in places[1:]:
        first_path, first = places[0]
        of_study = dict(row='', command='')  # which can differ if studies share the run
        if record | of_study != first | of_study:
            raise InputError(
                f'{first_path} and {path} have different records of the run {name}; remove its '
                f'line in one of them, or move {path} to another folder if it is a copy'
            )
    return places[0] if places else (records_path(results, study), None)


def add_record(results: Path, study: Study, row: Row, seed: int, record: dict) -> dict:
    """Append the record of a run to the study's file; returns it as `read_record` reads it.

    If another command has recorded this run in the meantime, that record is kept and returned. An
    incomplete last line is moved to a file of its own.
    """
    path = records_path(results, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = dict(run=run_name(study, row, seed), row=row.name)
    line = json.dumps(head | record) + '\n'
    with path.open('ab+') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if (existing := read_record(results, study, row, seed)) is not None:
            return existing
        stream.seek(0)
        unfinished = stream.read().rpartition(b'\n')[2]
        if _is_json(unfinished):  # a whole record, saved by an editor without a newline
            line = f'\n{line}'
        elif unfinished:  # an interrupted write, or a record that an editor has damaged
            with _damaged(path).open('ab') as side_stream:
                side_stream.write(unfinished + b'\n')
            stream.truncate(stream.tell() - len(unfinished))
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())
    return json.loads(line)


def records(study: Study, results: Path, rows: Iterable[Row] | None = None) -> list[dict]:
    """The existing records of the runs of `rows`, by default of all rows of the study."""
    run_records = (read_record(results, study, row, seed) for row, seed in study.runs(rows))
    return [record for record in run_records if record is not None]


def runs_without_row(study: Study, results: Path) -> list[str]:
    """The runs in the study's file of records that belong to no row of the study."""
    known = {run_name(study, row, seed) for row, seed in study.runs()}
    return [name for name in _read_file(records_path(results, study)) if name not in known]


def _files(results: Path, study: Study) -> Iterator[tuple[Path, dict[str, dict]]]:
    """Each file with its records by the name of the run, the study's own file first."""
    own_path = records_path(results, study)
    yield own_path, _read_file(own_path)
    for path in sorted(results.glob('*.jsonl')):
        if path != own_path:
            yield path, _read_file(path)


def _read_file(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    status = path.stat()
    return _parse(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _parse(path: Path, changed: int, size: int) -> dict[str, dict]:
    records: dict[str, dict] = {}
    line_numbers: dict[str, int] = {}
    with path.open('rb') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_written = False
        except OSError:  # another process is writing the last line
            is_written = True
        lines = stream.read().split(b'\n')
    if not _is_json(lines[-1]) and lines.pop().strip() and not is_written:
        print_stderr(
            f'warning: the last line of {path} is not complete, so that its run counts as not '
            f'recorded; restore the line, or remove it. The next record moves it to '
            f'{_damaged(path)}'
        )
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(
                f'{path}, line {number} is not valid JSON ({error}); remove the line, or restore it'
            ) from None
        check_record(f'{path}, line {number}', record)
        name = record['run']
        if name in records:
            raise InputError(
                f'{path}, lines {line_numbers[name]} and {number} are both records of the run '
                f'{name}; remove one of them'
            )
        records[name], line_numbers[name] = record, number
    return records


def _damaged(path: Path) -> Path:
    """The file for incomplete lines of a file of records."""
    return path.with_name(f'{path.name}.damaged')


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def config_hash(study: Study, row: Row, seed: int) -> str:
    """Checksum (12 hex digits) of everything that affects a run's numbers.

    This is its config with the overrides, and the configs of the rows whose weights it starts from;
    see `DETERMINING_KEYS`.
    """
    cfg = config_of(study, row, seed).to_dict()
    for key in row.weights:  # a run replaces this file
        *path, last = key.split('.')
        owner = part_at(cfg, path)
        if isinstance(owner, dict):
            owner.pop(last, None)
    if cfg.get('runner_type') == 'CheckedRunner':  # the tools use it in any case
        del cfg['runner_type']
    determining = _determining_part({key: cfg[key] for key in DETERMINING_KEYS if key in cfg})
    text = json.dumps(determining, sort_keys=True, default=str)
    for key, name in sorted(row.weights.items()):
        text += f'{key}={config_hash(study, study.rows[name], seed)}'
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _determining_part(node: object, key: str = '') -> object:
    """`node` without locations, and without hooks that do not affect the numbers."""
    if isinstance(node, dict):
        file = node.get('ann_file')  # in a project absolute, but a project can be moved
        if isinstance(file, str) and (key.endswith('evaluator') or Path(file).is_absolute()):
            node = {**node, 'ann_file': Path(file).name}
        if key.endswith('evaluator') and node.get('type') == 'FastCocoMetric':
            node = {**node, 'type': 'CocoMetric'}  # both compute the same numbers
        return {
            name: _determining_part(value, name if name.endswith('evaluator') else key)
            for name, value in node.items()
            if name not in LOCATION_KEYS and not _is_passive_hook(value, name)
        }
    if isinstance(node, (list, tuple)):
        items = [item for item in node if not _is_passive_hook(item)]
        return [_determining_part(item, key) for item in items]
    return node


def _is_passive_hook(node: object, name: str = '') -> bool:
    """Whether `node` is a hook that does not affect the numbers; `name` can give its type."""
    if not isinstance(node, dict):
        return False
    return (kind_of(node) or kind_of(OWN_HOOKS.get(name, {}))) in PASSIVE_HOOKS


def data_digits(study: Study, row: Row, seed: int, data_root: str | None) -> dict[str, str]:
    """The `fingerprint` of the data that a run reads, by split."""
    cfg = config_of(study, row, seed, data_root)
    return {
        name: '+'.join(map(fingerprint, split.data_sets))
        for name, split in RunConfig.from_cfg(cfg).splits.items()
    }


def outdated_runs(
    study: Study, results: Path, runs: Iterable[tuple[Row, int]] = ()
) -> list[tuple[Row, int]]:
    """The recorded runs whose config differs from the current config of their row.

    Args:
        runs: rows and seeds, by default all of the study.
    """
    return [
        (row, seed)
        for row, seed in runs or study.runs()
        if (record := read_record(results, study, row, seed)) is not None
        and record['config_hash'] != config_hash(study, row, seed)
    ]


def check_records(
    study: Study,
    results: Path,
    runs: Iterable[tuple[Row, int]] = (),
    work_dirs: Path = WORK_DIRS,
) -> None:
    """Check the records of a study.

    Args:
        runs: rows and seeds whose configs are compared, by default all of the study.
        work_dirs: folder of the runs, for the messages.

    Raises:
        InputError: a record has an outdated config, the wrong row, other data or another number of
            processes than the rest of its row or the baseline, or started from other weights than
            the runs of the rows that its row names ended with.
    """
    _check_rows(study, results)
    if outdated := outdated_runs(study, results, runs):
        parts = [removal(results, study, *run, work_dirs) for run in outdated]
        raise InputError(
            f'{len(outdated)} records were made with other configs than their rows have now; to '
            f'run them again, remove {first_few(parts)}'
        )
    for row in study.rows.values():
        for seed in row.seeds:
            _check_start(study, results, row, seed, work_dirs)
        compared_rows = (row, study.baseline(row) or row)
        runs = [
            (compared_row, seed) for compared_row in compared_rows for seed in compared_row.seeds
        ]
        for key, difference in EQUAL_KEYS.items():
            values = [
                (run, record[key])
                for run in runs
                if (record := read_record(results, study, *run)) and record.get(key)
            ]
            for run, value in values:
                first, first_value = values[0]
                if value != first_value:
                    place, first_place = (place_of(results, study, *it) for it in (run, first))
                    parts = [removal(results, study, *it, work_dirs) for it in (run, first)]
                    raise InputError(
                        f'{place} was made with {difference} ({value}) than {first_place} '
                        f'({first_value}); remove {", or ".join(parts)}, to run the wrong one again'
                    )


def check_new_run(
    study: Study,
    results: Path,
    row: Row,
    data: dict[str, str],
    processes: int,
    work_dirs: Path = WORK_DIRS,
) -> None:
    """Check that a run of a row, before it starts, can be compared with the records.

    Raises:
        InputError: a record of the row, its baseline or a row that is compared with it has other
            data or another number of processes.
    """
    rows = [
        other
        for other in study.rows.values()
        if other.name in (row.name, row.against) or other.against == row.name
    ]
    for run in study.runs(rows):
        record = read_record(results, study, *run) or {}
        for key, value in dict(data=data, processes=processes).items():
            if (recorded := record.get(key) or value) != value:
                remedy = 'read the same data, by the config or --data-root'
                if key == 'processes':
                    remedy = f'give --gpus {recorded}'
                raise InputError(
                    f'{row.name!r} would be run with {EQUAL_KEYS[key]} ({value}) than '
                    f'{record["run"]} in {results} ({recorded}), and could not be compared with '
                    f'it; {remedy}, or remove {removal(results, study, *run, work_dirs)} to run '
                    'it again'
                )


def _check_rows(study: Study, results: Path) -> None:
    """Raise InputError if `row` and `run` of a record in the study's file do not match."""
    row_names: dict[str, list[str]] = {}
    for row, seed in study.runs():
        row_names.setdefault(run_name(study, row, seed), []).append(row.name)
    path = records_path(results, study)
    for name, record in _read_file(path).items():
        if name in row_names and record['row'] not in row_names[name]:
            raise InputError(
                f'{path}, {name} has the row {record["row"]!r}, but this run belongs to '
                f'{first_few([repr(row) for row in row_names[name]])}; correct the row in this '
                'line, or remove the line'
            )


def _check_start(study: Study, results: Path, row: Row, seed: int, work_dirs: Path) -> None:
    """Raise InputError if a run started from other weights than those runs ended with that its row
    names. A record also has the names of their rows, but rows can be renamed.
    """
    record = read_record(results, study, row, seed)
    if record is None:
        return
    started = set(record.get('starts_from', {}).values())
    rows = [study.rows[name] for name in row.weights.values()]
    sources = {run_name(study, source, seed): source for source in rows}
    ended = {
        place_of(results, study, source, seed): first.get('weights')
        for source in sources.values()
        if (first := read_record(results, study, source, seed)) is not None
    }
    digests = set(ended.values())
    if digests ^ started if len(ended) == len(sources) else digests - started:
        ends = ' and '.join(f'{place} ended with {digest}' for place, digest in ended.items())
        raise InputError(
            f'{place_of(results, study, row, seed)} started from the weights '
            f'{first_few(sorted(started)) or "of no recorded run"}, but '
            f'{ends or "its row names none"}; remove '
            f'{removal(results, study, row, seed, work_dirs)} to run it again'
        )
