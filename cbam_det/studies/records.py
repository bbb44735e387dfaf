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
from ..utils.errors import InputError, first_few
from ..utils.run_config import RunConfig
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
# Keys that every record must have, with their types; the others are optional.
RECORD_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(('run', 'row', 'config_hash'), (str, 'a string')),
    **dict.fromkeys(('environment', 'metrics', 'loss', 'validation'), (dict, 'an object')),
    'train_seconds': ((int, float), 'a number'),
}
ENVIRONMENT_KEYS = ('hardware', 'threads', 'torch')
# What must be equal in the runs of a row and its baseline.
EQUAL_KEYS = {'data': 'other data', 'processes': 'another number of processes'}


def records_path(results: Path, study: Study) -> Path:
    """The file with the records of a study's runs."""
    return results / f'{study.name}.jsonl'


def read_record(results: Path, study: Study, row: Row, seed: int) -> dict | None:
    """The record of a run, or None if the run is not recorded."""
    name = run_name(study, row, seed)
    return next((records[name] for _, records in _files(results, study) if name in records), None)


def place_of(results: Path, study: Study, row: Row, seed: int) -> str:
    """The file of a record and the name of its run, for messages."""
    name = run_name(study, row, seed)
    own_path = records_path(results, study)
    path = next((path for path, records in _files(results, study) if name in records), own_path)
    return f'{path}, {name}'


def add_record(results: Path, study: Study, row: Row, seed: int, record: dict) -> dict:
    """Append the record of a run to the study's file; returns it as `read_record` reads it.

    If another command has recorded this run in the meantime, that record is kept and returned.
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
        if unfinished := stream.read().rpartition(b'\n')[2]:
            if _is_json(unfinished):  # a whole record, saved by an editor without a newline
                line = f'\n{line}'
            else:  # an interrupted write
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
    lines = path.read_bytes().split(b'\n')
    if not _is_json(lines[-1]):
        lines.pop()  # another process is writing this line, or was interrupted
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(
                f'{path}, line {number} is not valid JSON ({error}); remove the line, or restore it'
            ) from None
        _check_keys(f'{path}, line {number}', record)
        name = record['run']
        if name in records:
            raise InputError(
                f'{path}, lines {line_numbers[name]} and {number} are both records of the run '
                f'{name}; remove one of them'
            )
        records[name], line_numbers[name] = record, number
    return records


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _check_keys(place: str, record: object) -> None:
    """Raise InputError if a line of JSON is not a record."""
    remedy = 'remove the line, or restore it'
    if not isinstance(record, dict):
        raise InputError(f'{place} is not a record, but {record!r}; {remedy}')
    for key, (value_type, description) in RECORD_KEYS.items():
        if key not in record:
            raise InputError(f'{place}: the record has no {key}; {remedy}')
        if not isinstance(record[key], value_type):
            raise InputError(f'{place}: {key} must be {description}, not {record[key]!r}; {remedy}')
    for key in ENVIRONMENT_KEYS:
        if key not in record['environment']:
            raise InputError(f'{place}: the record has no environment.{key}; {remedy}')
    for key, value in record['metrics'].items():
        if not (value is None or isinstance(value, (int, float))):
            raise InputError(f'{place}: metrics.{key} must be a number, not {value!r}; {remedy}')


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


def outdated_records(
    study: Study, results: Path, runs: Iterable[tuple[Row, int]] = ()
) -> list[str]:
    """The records whose config differs from the current config of their row; see `place_of`.

    Args:
        runs: rows and seeds, by default all of the study.
    """
    return [
        place_of(results, study, row, seed)
        for row, seed in runs or study.runs()
        if (record := read_record(results, study, row, seed)) is not None
        and record['config_hash'] != config_hash(study, row, seed)
    ]


def check_records(study: Study, results: Path, runs: Iterable[tuple[Row, int]] = ()) -> None:
    """Check the records of a study.

    Args:
        runs: rows and seeds whose configs are compared, by default all of the study.

    Raises:
        InputError: a record has an outdated config, the wrong row, other data or another number of
            processes than the rest of its row or the baseline, or started from other weights than
            its row names.
    """
    _check_rows(study, results)
    if outdated := outdated_records(study, results, runs):
        raise InputError(
            f'{len(outdated)} records were made with other configs than their rows have now; to '
            f'run them again, remove their lines and their work_dirs: {first_few(outdated)}'
        )
    for row in study.rows.values():
        for seed in row.seeds:
            _check_start(study, results, row, seed)
        compared_rows = (row, study.baseline(row) or row)
        runs = [
            (compared_row, seed) for compared_row in compared_rows for seed in compared_row.seeds
        ]
        for key, difference in EQUAL_KEYS.items():
            values = {
                place_of(results, study, *run): record[key]
                for run in runs
                if (record := read_record(results, study, *run)) and record.get(key)
            }
            for place, value in values.items():
                first = next(iter(values))
                if value != values[first]:
                    raise InputError(
                        f'{place} was made with {difference} ({value}) than {first} '
                        f'({values[first]}); remove the wrong line and its work_dir'
                    )


def check_new_run(
    study: Study, results: Path, row: Row, data: dict[str, str], processes: int
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
    for record in records(study, results, rows):
        for key, value in dict(data=data, processes=processes).items():
            if (recorded := record.get(key) or value) != value:
                remedy = 'read the same data, by the config or --data-root'
                if key == 'processes':
                    remedy = f'give --gpus {recorded}'
                raise InputError(
                    f'{row.name!r} would be run with {EQUAL_KEYS[key]} ({value}) than '
                    f'{record["run"]} in {results} ({recorded}), and could not be compared with '
                    f'it; {remedy}, or remove that line and its work_dir to run it again'
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


def _check_start(study: Study, results: Path, row: Row, seed: int) -> None:
    """Raise InputError if a run started from other weights than its source row ended with."""
    record = read_record(results, study, row, seed) or {}
    for name, digest in record.get('starts_from', {}).items():
        source = study.rows.get(name)
        first = source and read_record(results, study, source, seed)
        if source and first and first.get('weights') != digest:
            raise InputError(
                f'{place_of(results, study, row, seed)} started from the weights {digest}, but '
                f'{place_of(results, study, source, seed)} ended with {first.get("weights")}; '
                'remove the line of the first and its work_dir to run it again'
            )
