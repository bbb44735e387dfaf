"""The runs of the ledger: train and test a row with a seed by the tools, record it, repeat it."""

from __future__ import annotations

import fcntl
import json
import math
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from ..checkpoints.loading import check_checkpoint, weights_digest
from ..utils.errors import InputError, first_few
from ..utils.records import current_environment, log_lines, with_origin
from .processes import call_tool
from .records import (
    add_record,
    check_records,
    config_hash,
    data_digits,
    place_of,
    read_record,
    records_path,
)
from .study import Row, Study, check_gpus, command, command_here, options, run_name


def run(
    study: Study,
    row: Row,
    seed: int,
    results: Path,
    work_dirs: Path,
    gpus: int = 0,
    data_root: str | None = None,
    start: dict[str, tuple[Path, str]] | None = None,
) -> dict:
    """Train and test a row with a seed, and write its record; an interrupted run goes on.

    Args:
        results: folder of the records.
        work_dirs: folder of the runs' work_dirs.
        gpus: processes; `tools/dist_train.sh` starts more than one.
        data_root: folder to read instead of the config's.
        start: what `start_weights` gives, where that is not looked up here.

    Returns:
        The record, of this run or of one that is done already.

    Raises:
        InputError: the study is made for another number of processes; the weights that it starts
            from are missing or others than recorded; a tool failed, or the test gave no metrics,
            and its log is named.
    """
    check_gpus(study, gpus)
    if (existing := read_record(results, study, row, seed)) is not None:
        check_records(study, results, [(row, seed)])
        return existing
    digest = config_hash(study, row, seed)
    data = data_digits(study, row, seed, data_root)
    folder = work_dirs / run_name(study, row, seed)
    if start is None:
        start = start_weights(study, row, seed, results, work_dirs)
    identity = dict(config_hash=digest, gpus=max(gpus, 1), data_root=data_root)
    identity |= {key: weights for key, (_, weights) in start.items()}
    with _claimed(folder, identity) as (commit, lock):
        if (existing := read_record(results, study, row, seed)) is not None:
            return existing  # by a command that had the folder until now
        overrides = options(study, row, seed) | {key: str(path) for key, (path, _) in start.items()}
        pairs = [f'{key}={_text(value)}' for key, value in overrides.items()]
        common = ['--work-dir', str(folder), '--cfg-options', *pairs]
        if data_root:
            common = ['--data-root', data_root, *common]
        memory = call_tool('train', row.config, [], ['--resume', *common], folder, gpus, lock)
        checkpoint = last_checkpoint(folder)
        call_tool('test', row.config, [checkpoint], common, folder, gpus, lock)
        logged, metrics = list(log_lines(folder)), _metrics(folder)
        if missing := set(study.metrics_of(row).values()) - set(metrics):
            raise InputError(
                f'the test logged no {first_few(sorted(missing))}, which mmdet leaves out where '
                f'the detector finds nothing at all; see {folder / "test.log"}'
            )
        record = dict(
            seed=seed,
            config=row.config,
            overrides=dict(options(study, row, seed)),
            config_hash=digest,
            starts_from={row.weights[key]: weights for key, (_, weights) in start.items()},
            weights=weights_digest(check_checkpoint(checkpoint, 'the last checkpoint')),
            data=data,
            commit=commit,
            processes=max(gpus, 1),
            train_seconds=_seconds(logged),
            memory_mib=int(max((line.get('memory', 0) for line in logged), default=0) or memory),
            loss=_losses(logged),
            validation=_validation(logged),
            metrics=metrics,
        )
        content = with_origin(command(study, row, seed, gpus), record)
        return add_record(results, study, row, seed, content)


def start_weights(
    study: Study, row: Row, seed: int, results: Path, work_dirs: Path
) -> dict[str, tuple[Path, str]]:
    """The files of weights that a run starts from, by dotted key, each with its `weights_digest`.

    Each is the last checkpoint of another row's run with the same seed, of its first run or of its
    repetition, whichever has the weights that its record names.

    Raises:
        InputError: that run is not recorded, or its weights are gone, damaged or others.
    """
    start = {}
    for key, name in row.weights.items():
        source = study.rows[name]
        description = f'{row.name!r} starts from the weights of {name!r}, seed {seed}'
        record = read_record(results, study, source, seed)
        if record is None:
            raise InputError(
                f'{description}, and no such run is recorded in {results}; make it first: '
                f'{command_here(study, source, seed)}'
            )
        check_records(study, results, [(source, seed)])
        run_folders = [
            folder / run_name(study, source, seed) for folder in (work_dirs, work_dirs / 'repeat')
        ]
        files = [
            Path(last_checkpoint(run_folder))
            for run_folder in run_folders
            if has_checkpoint(run_folder)
        ]
        faults = []
        for path in files:
            try:
                digest = weights_digest(check_checkpoint(str(path), 'weights'))
            except InputError as error:
                faults.append(str(error).rpartition('; ')[0])
                continue
            if digest == record.get('weights'):
                start[key] = path, digest
                break
            faults.append(f'{path} holds other weights ({digest}) than its record names')
        else:
            repeat_command = command_here(study, source, seed, name='repeat')
            raise InputError(
                f'{description}, and they are not in {work_dirs} '
                f'({"; ".join(faults) or "no checkpoint"}); name the --work-dirs of the runs, make '
                f'them again ({repeat_command}), or, where another machine rounds otherwise, '
                f'remove the line of {place_of(results, study, source, seed)} and run it anew'
            )
    return start


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has a checkpoint that `last_checkpoint` finds."""
    return (folder / 'last_checkpoint').is_file()


def last_checkpoint(folder: Path) -> str:
    """Of a run, in its folder wherever that was moved."""
    return str(folder / Path((folder / 'last_checkpoint').read_text().strip()).name)


@contextmanager
def _claimed(folder: Path, identity: dict) -> Iterator[tuple[str, int]]:
    """A work_dir for one command at a time, and for one config, batch and data for ever.

    Yields:
        The commit of the code with which its training began; and the descriptor of the lock, which
        the tools hold too, as they may outlive this process.

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
        recorded = json.loads(text or '{}')
        commit = recorded.pop('commit', _commit())
        if text and recorded != identity:
            raise InputError(
                f'{folder} is of another run ({text}), not {json.dumps(identity)}; remove it, '
                'or keep it by another --work-dirs'
            )
        if not text:
            stream.write(json.dumps(dict(identity, commit=commit)))
            stream.flush()
        yield commit, stream.fileno()


def repeat(
    study: Study,
    row: Row,
    seed: int,
    results: Path,
    work_dirs: Path,
    gpus: int = 0,
    data_root: str | None = None,
) -> dict[str, tuple[float | None, float | None]]:
    """Run a recorded run anew, beside it, and tell what came out otherwise; an interrupted one
    goes on.

    Returns:
        By name the recorded and the new value of metrics, validations and losses that differ; {}
        where all are equal to the last bit that the logs print.

    Raises:
        InputError: the run is not recorded, or on other data, a repetition lies there already, or
            a tool failed.
    """
    record = read_record(results, study, row, seed)
    if record is None:
        path = records_path(results, study)
        raise InputError(f'no record in {path}; make it: {command_here(study, row, seed, gpus)}')
    folder = work_dirs / 'repeat'
    repeated_results = folder / run_name(study, row, seed) / 'record'  # removed with the run
    if read_record(repeated_results, study, row, seed) is not None:
        raise InputError(f'{repeated_results.parent} is there; remove it')
    check_records(study, results, [(row, seed)])
    data = data_digits(study, row, seed, data_root)
    if (recorded_data := record.get('data', data)) != data:
        raise InputError(
            f'the record is of other data ({recorded_data}) than what is read here ({data}); give '
            'its folder by --data-root'
        )
    start = start_weights(study, row, seed, results, work_dirs)
    repetition = run(study, row, seed, repeated_results, folder, gpus, data_root, start)
    old, new = _flat(record), _flat(repetition)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in keys}


def environment_differences(record: dict) -> str:
    """What of a record's machine is otherwise here, where sums may be rounded otherwise; or ''."""
    recorded, current = record['environment'], current_environment()
    keys = ('hardware', 'threads', 'torch')
    return '; '.join(
        f'{key} {recorded.get(key)}, here {current[key]}'
        for key in keys
        if recorded.get(key) != current[key]
    )


def _flat(record: dict) -> dict[str, float]:
    flat = {f'test {key}': value for key, value in record['metrics'].items()}
    flat |= {f'loss of epoch {epoch}': value for epoch, value in record['loss'].items()}
    for epoch, metrics in record['validation'].items():
        flat |= {f'validation {epoch} {key}': value for key, value in metrics.items()}
    return flat


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _metrics(folder: Path) -> dict[str, float | None]:
    """What the last test logged, as MMEngine writes it for any library: <time>/<time>.json."""
    logs = [path for path in folder.glob('*/*.json') if path.stem == path.parent.name]
    text = max(logs, key=lambda path: path.parent.name).read_text(encoding='utf-8')
    numbers = json.loads(text.splitlines()[-1])
    # mmdet's number for a class that the set lacks is none of JSON.
    return {key: None if value != value else value for key, value in numbers.items() if '/' in key}


def _commit() -> str:
    """The commit of the code, with + where files differ from it; '' outside a checkout."""
    package_folder = Path(__file__).parents[1]
    git = ['git', '-C', str(package_folder)]
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False)
    if head.returncode:
        return ''
    changed = subprocess.run(
        [*git, 'status', '--porcelain', '-uno', '--', '.', '../configs'],
        capture_output=True,
        text=True,
        check=False,
    )
    suffix = '+' if changed.stdout.strip() else ''
    return head.stdout.strip() + suffix


def _seconds(logged: list[dict]) -> int:
    """Of all training steps, by the log; a resumed run counts each of them once."""
    lines = {line['step']: line['time'] for line in logged if 'loss' in line}
    steps = sorted(lines)
    return round(sum(lines[step] * (step - previous) for previous, step in pairwise([0, *steps])))


def _losses(logged: list[dict]) -> dict[int, float]:
    """The mean of the losses logged in each epoch, or where steps alone are counted in each
    twentieth of them, by its last step.
    """
    lines = {line['step']: line for line in logged if 'loss' in line}  # resumed: the later one
    steps_per_part = math.ceil(max(lines, default=1) / 20)
    means: dict[int, list[float]] = {}
    for step, line in sorted(lines.items()):
        part_end = math.ceil(step / steps_per_part) * steps_per_part
        means.setdefault(line.get('epoch', part_end), []).append(line['loss'])
    return {step: round(statistics.mean(losses), 5) for step, losses in means.items()}


def _validation(logged: list[dict]) -> dict[int, dict[str, float]]:
    """The metrics of each validation, by epoch or step; the test's are logged at step 0."""
    return {
        line['step']: {key: value for key, value in line.items() if '/' in key}
        for line in logged
        if 'loss' not in line and line.get('step')
    }
