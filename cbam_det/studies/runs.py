"""The runs of a study: train and test a row with a seed, record the result, repeat the run."""

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

from ..checkpoints.loading import check_checkpoint, last_readable_checkpoint, weights_digest
from ..evaluation.metrics import class_of_metric
from ..utils.errors import InputError, first_few
from ..utils.installation import INSTALLED
from ..utils.options import written
from ..utils.records import current_environment, last_checkpoint, log_lines, scored, with_origin
from .processes import call_tool
from .record_format import is_number, is_score
from .records import (
    add_record,
    check_new_run,
    check_records,
    config_hash,
    data_digits,
    read_record,
    records_path,
    removal,
)
from .study import Row, Study, check_gpus, command_here, options, run_name


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
    """Train and test a row with a seed, and write its record; continues an interrupted run.

    Args:
        results: folder of the records.
        work_dirs: folder of the runs' work_dirs.
        gpus: number of processes; 0 and 1 train in one.
        data_root: folder to read instead of the config's data_root.
        start: the result of `start_weights`, if it is known.

    Returns:
        The record of this run, or the existing one if the run is recorded.

    Raises:
        InputError: the study is made for another number of processes; the data or the number of
            processes differ from those of the runs it is compared with, or the data from those with
            which its training started; the weights to start from are missing or differ from the
            record; a tool failed; or the test logged no metrics.
    """
    check_gpus(study, gpus)
    if (existing := read_record(results, study, row, seed)) is not None:
        check_records(study, results, [(row, seed)], work_dirs)
        return existing
    digest = config_hash(study, row, seed)
    data = data_digits(study, row, seed, data_root)
    check_new_run(study, results, row, data, max(gpus, 1), work_dirs)
    folder = work_dirs / run_name(study, row, seed)
    if start is None:
        start = start_weights(study, row, seed, results, work_dirs)
    identity = dict(config_hash=digest, gpus=max(gpus, 1), data=data)
    identity |= {key: weights for key, (_, weights) in start.items()}
    with _claimed(folder, identity) as (commit, lock):
        if (existing := read_record(results, study, row, seed)) is not None:
            return existing  # written by another command in the meantime
        overrides = options(study, row, seed) | {key: str(path) for key, (path, _) in start.items()}
        pairs = [f'{key}={written(value)}' for key, value in overrides.items()]
        common = ['--work-dir', str(folder), '--cfg-options', *pairs]
        if data_root:
            common = ['--data-root', data_root, *common]
        _check_resumable(folder)
        memory = call_tool('train', row.config, [], ['--resume', *common], folder, gpus, lock)
        checkpoint = str(last_checkpoint(folder))
        call_tool('test', row.config, [checkpoint], common, folder, gpus, lock)
        logged, metrics = list(log_lines(folder)), _metrics(folder)
        if missing := set(study.metrics_of(row).values()) - set(metrics):
            raise InputError(
                f'the test logged no {first_few(sorted(missing))}; give under metrics in the study '
                f'what it logged ({first_few(sorted(metrics), 9) or "nothing"}), or, if nothing is '
                'detected, train longer or lower score_thr in model.test_cfg; see '
                f'{folder / "test.log"}'
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
        content = with_origin(command_here(study, row, seed, gpus), record)
        return add_record(results, study, row, seed, content)


def start_weights(
    study: Study, row: Row, seed: int, results: Path, work_dirs: Path
) -> dict[str, tuple[Path, str]]:
    """The checkpoints that a run starts from, by dotted key, each with its `weights_digest`.

    Each is the last checkpoint of another row's run with the same seed. It may come from the run or
    from its repetition, but must have the recorded weights.

    Raises:
        InputError: that run is not recorded, or its checkpoint is missing, damaged or has other
            weights.
    """
    start = {}
    for key, name in row.weights.items():
        source = study.rows[name]
        description = f'{row.name!r} starts from the weights of {name!r}, seed {seed}'
        record = read_record(results, study, source, seed)
        if record is None:
            raise InputError(
                f'{description}, but this run is not recorded in {results}; run it first: '
                f'{command_here(study, source, seed)}'
            )
        check_records(study, results, [(source, seed)], work_dirs)
        run_folders = [
            folder / run_name(study, source, seed) for folder in (work_dirs, work_dirs / 'repeat')
        ]
        faults = []
        for path in filter(None, map(last_checkpoint, run_folders)):
            try:
                digest = weights_digest(check_checkpoint(str(path), 'weights'))
            except InputError as error:
                faults.append(str(error).rpartition('; ')[0])
                continue
            if digest == record.get('weights'):
                start[key] = path, digest
                break
            faults.append(f'{path} has other weights ({digest}) than its record')
        else:
            repeat_command = command_here(study, source, seed, name='repeat')
            raise InputError(
                f'{description}, but these weights are not in {work_dirs} '
                f'({"; ".join(faults) or "no checkpoint"}); give the folder of the runs with '
                f'--work-dirs, or train again: {repeat_command}; if the numbers differ because '
                'this is another machine, remove '
                f'{removal(results, study, source, seed, work_dirs)} and run the row again'
            )
    return start


@contextmanager
def _claimed(folder: Path, identity: dict) -> Iterator[tuple[str, int]]:
    """Lock a work_dir for this command, and check that it belongs to this run.

    Yields:
        The commit of the code with which its training started; and the file descriptor of the lock,
        which the tools inherit because they may outlive this process.

    Raises:
        InputError: it belongs to another run, its file is damaged, it cannot be written to, or
            another command is using it.
    """
    path = folder / 'run.json'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open('a+', encoding='utf-8', errors='replace')
    except OSError as error:
        raise InputError(
            f'{error.filename} cannot be used for this run ({error.strerror}); remove what is in '
            'its place, or give another folder with --work-dirs'
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f'another command is using {folder}; wait until it ends') from None
        stream.seek(0)
        text = stream.read()
        if not text or not _is_trained(folder):
            text = json.dumps(dict(identity, commit=_commit()))
            stream.truncate(0)
            stream.write(text)
            stream.flush()
        try:
            # Older ones have no data, but the folder of the data.
            recorded = dict(data=identity['data'], data_root=None) | json.loads(text)
        except (ValueError, TypeError):
            raise InputError(
                f'{path} is damaged, so that it is not known which run {folder} belongs to; remove '
                f'{folder} to train again, or give another folder with --work-dirs'
            ) from None
        commit = recorded.pop('commit') if 'commit' in recorded else _commit()
        del recorded['data_root']
        if differing := [
            f'{key} {recorded.get(key)}, not {identity.get(key)}'
            for key in {**identity, **recorded}
            if recorded.get(key) != identity.get(key)
        ]:
            raise InputError(
                f'{folder} belongs to another run ({" and ".join(differing)}); remove it, or give '
                'another folder with --work-dirs'
            )
        yield commit, stream.fileno()


def _is_trained(folder: Path) -> bool:
    """Whether a work_dir has a checkpoint or a logged step."""
    has_checkpoint = last_checkpoint(folder) is not None or any(folder.glob('*.pth'))
    return has_checkpoint or next(log_lines(folder), None) is not None


def repeat(
    study: Study,
    row: Row,
    seed: int,
    results: Path,
    work_dirs: Path,
    gpus: int = 0,
    data_root: str | None = None,
) -> dict[str, tuple[float | None, float | None]]:
    """Repeat a recorded run and compare the numbers; continues an interrupted repetition.

    Returns:
        The recorded and the new value of each metric, validation and loss that differs, by name;
        {} if all printed digits are equal.

    Raises:
        InputError: the run is not recorded, or read other data or had another number of processes;
            there is a repetition already; or a tool failed.
    """
    record = read_record(results, study, row, seed)
    if record is None:
        path = records_path(results, study)
        here = command_here(study, row, seed, gpus)
        raise InputError(f'{path} has no record of it; run it: {here}')
    folder = work_dirs / 'repeat'
    repeated_results = folder / run_name(study, row, seed) / 'record'  # removed with the run
    if read_record(repeated_results, study, row, seed) is not None:
        raise InputError(f'{repeated_results.parent} exists; remove it to repeat the run again')
    check_records(study, results, [(row, seed)], work_dirs)
    data = data_digits(study, row, seed, data_root)
    if (recorded_data := record.get('data', data)) != data:
        raise InputError(
            f'the record was made with other data ({recorded_data}) than this run would read '
            f'({data}); give the folder of its data with --data-root'
        )
    start = start_weights(study, row, seed, results, work_dirs)
    if (processes := record.get('processes', max(gpus, 1))) != max(gpus, 1):
        raise InputError(f'the record was made with {processes} processes; give --gpus {processes}')
    repetition = run(study, row, seed, repeated_results, folder, gpus, data_root, start)
    old, new = _flat(record), _flat(repetition)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in keys}


def environment_differences(record: dict) -> str:
    """How hardware, threads and torch of a record differ from the current ones, or ''."""
    recorded, current = record['environment'], current_environment()
    keys = ('hardware', 'threads', 'torch')
    return '; '.join(
        f'{key} {recorded.get(key)}, now {current[key]}'
        for key in keys
        if recorded.get(key) != current[key]
    )


def _check_resumable(folder: Path) -> None:
    """Raise InputError if a work_dir has checkpoints, but none from which its run can continue."""
    try:
        last_readable_checkpoint(str(folder))
    except InputError as error:  # its remedies are options of tools/train.py
        fault = str(error).rpartition('; ')[0]
        raise InputError(f'{fault}; remove {folder} to train this run again') from None


def _flat(record: dict) -> dict[str, float | None]:
    flat = {f'test {key}': value for key, value in scored(record['metrics']).items()}
    flat |= {f'loss of epoch {epoch}': value for epoch, value in record['loss'].items()}
    for epoch, metrics in record['validation'].items():
        flat |= {f'validation {epoch} {key}': value for key, value in scored(metrics).items()}
    return flat


def _numbers(line: dict) -> dict[str, float | None]:
    """The metrics in a line of a log; mmpretrain also logs lists, a number for each class."""
    return {key: value for key, value in scored(line).items() if '/' in key and is_score(value)}


def _metrics(folder: Path) -> dict[str, float | None]:
    """The metrics of the last test, which MMEngine writes to <time>/<time>.json."""
    logs = [path for path in folder.glob('*/*.json') if path.stem == path.parent.name]
    text = max(logs, key=lambda path: path.parent.name).read_text(encoding='utf-8')
    return _numbers(json.loads(text.splitlines()[-1]))


def _commit() -> str:
    """The commit of the code, with a + if files were changed; '' outside a checkout or without git.

    An installed package may lie in a repository of the user, which is not the code's.
    """
    if INSTALLED:
        return ''
    package_folder = Path(__file__).parents[1]
    git = ['git', '-C', str(package_folder)]
    try:
        head = subprocess.run(
            [*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return ''
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
    """The time of all training steps, from the log; steps repeated after a resume count once."""
    lines = {line['step']: line['time'] for line in logged if 'loss' in line}
    steps = sorted(lines)
    return round(sum(lines[step] * (step - previous) for previous, step in pairwise([0, *steps])))


def _losses(logged: list[dict]) -> dict[int, float]:
    """The mean of the logged losses by epoch, without those that are not finite.

    A training by steps is divided into twenty parts, and the keys are their last steps.
    """
    # After a resume the later line of a step counts.
    lines = {line['step']: line for line in logged if 'loss' in line}
    steps_per_part = math.ceil(max(lines, default=1) / 20)
    means: dict[int, list[float]] = {}
    for step, line in sorted(lines.items()):
        part_end = math.ceil(step / steps_per_part) * steps_per_part
        if is_number(line['loss']):
            means.setdefault(line.get('epoch', part_end), []).append(line['loss'])
    return {step: round(statistics.mean(losses), 5) for step, losses in means.items()}


def _validation(logged: list[dict]) -> dict[int, dict[str, float | None]]:
    """The metrics of each validation but those of its classes, by epoch or step; those of the test
    are at step 0.
    """
    return {
        line['step']: {
            key: value for key, value in _numbers(line).items() if not class_of_metric(key)
        }
        for line in logged
        if 'loss' not in line and line.get('step')
    }
