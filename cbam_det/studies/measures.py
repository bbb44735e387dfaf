"""What is measured of a study's rows beside its runs: their times, the weights of their gates."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

import numpy as np
from rich.progress import track

from ..apis.inference import Predictor
from ..checkpoints.loading import check_checkpoint, weights_digest
from ..utils.config import CBAMS, is_detector, kind_of, walk
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.records import write_record
from ..visualization.attention import gates
from ..visualization.detections import dataset_of, evenly_spaced
from .records import read_record
from .runs import has_checkpoint, last_checkpoint
from .study import (
    GATES,
    Row,
    Study,
    config_of,
    cost_path,
    focus_path,
    gates_path,
    program,
    read_json,
    run_name,
)
from .timing import detectors


def costs(study: Study, results: Path, rounds: int, device: str) -> dict:
    """Measure a training step and inference of every row, in alternation, and write the record.

    Trainings are no measure: what else their machine does, and when, is in their times.
    """
    configs = {name: config_of(study, row, row.seeds[0]) for name, row in study.rows.items()}
    configs = {name: cfg for name, cfg in configs.items() if is_detector(cfg)}
    if not configs:
        raise InputError(f'{study.name} has no detectors, whose steps are measured')
    batch = next(iter(configs.values())).train_dataloader.batch_size
    record = detectors(configs, rounds, device, batch=batch)
    command_line = shlex.join([*program(), 'cost', study.name, '--rounds', str(rounds)])
    return write_record(cost_path(results, study), command_line, record)


def gate_weights(
    study: Study, results: Path, work_dirs: Path, count: int, data_root: str | None = None
) -> dict:
    """Take the weights of all CBAMs after the trainings that are recorded, and write the record.

    Runs that the record has already are kept as they are there, so that it can be made piece by
    piece, wherever the checkpoints are.

    Args:
        work_dirs: where the runs and their last checkpoints lie.
        count: images, evenly over the validation set.
        data_root: folder to read instead of the configs'.

    Returns:
        'images'; 'rows': by row and gate the 5%, 50% and 95% quantiles of the weights, means over
        its runs; and 'runs': by row and gate those of each run, by seed.

    Raises:
        InputError: no run with attention is recorded, all their checkpoints are gone, or the record
            is of another number of images. Single runs without their checkpoint are passed over.
    """
    path = gates_path(results, study)
    measured: dict[str, dict[str, dict[str, list[float]]]] = _recorded_runs(
        path, dict(images=count)
    )
    command_line = shlex.join([*program(), 'gates', study.name, '--count', str(count)])
    missing = []
    for row in study.rows.values():
        cfg = config_of(study, row, row.seeds[0])
        if not any(kind_of(node) in CBAMS for _, node in walk(cfg.model)):
            continue
        row_quantiles = measured.get(row.name, {})
        measured_seeds = {seed for by_seed in row_quantiles.values() for seed in by_seed}
        for seed in track(
            _unmeasured_seeds(study, row, results, measured_seeds), row.name, transient=True
        ):
            folder = work_dirs / run_name(study, row, seed)
            if not _has_weights(folder, read_record(results, study, row, seed)):
                missing.append(str(folder))
                continue
            for gate, quantiles in _weights(study, row, seed, folder, count, data_root).items():
                row_quantiles = measured.setdefault(row.name, {})
                row_quantiles.setdefault(gate, {})[str(seed)] = quantiles.round(4).tolist()
            write_record(
                path, command_line, dict(images=count, rows=_means(measured), runs=measured)
            )
    _report_missing(
        missing, measured, f'no run of {study.name} with attention is recorded in {results}'
    )
    return read_json(path)


def _means(measured: dict[str, dict[str, dict[str, list[float]]]]) -> dict:
    return {
        name: {
            gate: np.mean(list(by_seed.values()), axis=0).round(4).tolist()
            for gate, by_seed in by_gate.items()
        }
        for name, by_gate in measured.items()
    }


def _has_weights(folder: Path, record: dict | None) -> bool:
    """Whether a folder holds the weights that its run's record names; any where that names none."""
    if record is None or not has_checkpoint(folder):
        return False
    digest = record.get('weights')
    path = last_checkpoint(folder)
    return digest is None or weights_digest(check_checkpoint(path, 'weights')) == digest


def _report_missing(missing: list[str], measured: dict, nothing_recorded: str) -> None:
    """Say which runs were passed over.

    Raises:
        InputError: nothing was measured at all.
    """
    reason = nothing_recorded
    if missing:
        reason = f'no checkpoint with the recorded weights in {first_few(missing)}'
    if not measured:
        raise InputError(f'{reason}; give the --work-dirs of the runs' if missing else reason)
    if missing:
        print_stderr(
            f'{len(missing)} runs are passed over: {reason}; --work-dirs names their folder'
        )


def heat_inside(
    study: Study,
    results: Path,
    work_dirs: Path,
    count: int,
    score: float,
    data_root: str | None = None,
) -> dict:
    """Measure how much of Grad-CAM's heat lies inside the objects of the test images, a row's run
    beside its baseline's of the same seed, and write the record; see `focus.focus`.

    Runs that the record has already are kept as they are there.

    Args:
        work_dirs: where the runs and their last checkpoints lie.
        count: images, evenly over the test set.
        score: detections below it find nothing, 0 to 1.
        data_root: folder to read instead of the configs'.

    Returns:
        'images'; 'score'; and 'runs': by row and seed what `focus.focus` gives, the baseline
        first.

    Raises:
        InputError: no pair of runs of detectors is recorded, all their checkpoints are gone, or the
            record is of other options. Pairs without a checkpoint are passed over.
    """
    from ..visualization.focus import focus
    from ..visualization.gradcam import Explainer

    path = focus_path(results, study)
    measured: dict[str, dict[str, dict]] = _recorded_runs(path, dict(images=count, score=score))
    options = ['--count', str(count), '--score', f'{score:g}']
    command_line = shlex.join([*program(), 'focus', study.name, *options])
    missing: list[str] = []
    for row in study.rows.values():
        base = study.baseline(row)
        if base is None or not is_detector(config_of(study, row, row.seeds[0])):
            continue
        measured_seeds = set(measured.get(row.name, {}))
        for seed in track(
            _unmeasured_seeds(study, row, results, measured_seeds), row.name, transient=True
        ):
            if read_record(results, study, base, seed) is None:
                continue
            folders = {
                compared.name: work_dirs / run_name(study, compared, seed)
                for compared in (base, row)
            }
            without_weights = [
                str(folders[compared.name])
                for compared in (base, row)
                if not _has_weights(
                    folders[compared.name], read_record(results, study, compared, seed)
                )
            ]
            missing += without_weights
            if without_weights:
                continue
            explainers = [
                Explainer(
                    Predictor(
                        config_of(study, compared, seed, data_root),
                        last_checkpoint(folders[compared.name]),
                        compared.name,
                    )
                )
                for compared in (base, row)
            ]
            heat = focus(explainers[1].predictor.cfg, explainers, 'test', count, score)
            measured.setdefault(row.name, {})[str(seed)] = heat
            write_record(path, command_line, dict(images=count, score=score, runs=measured))
    reason = f'no detector of {study.name} is recorded in {results} beside its baseline'
    _report_missing(missing, measured, f'{reason}, by the same seed')
    return read_json(path)


# The options by which a record's keys are given.
OPTIONS = dict(images='count', score='score')


def _recorded_runs(path: Path, options: dict[str, float]) -> dict:
    """The runs of a record of measures that was made with the same options; {} where none is."""
    record = read_json(path)
    for key, value in options.items():
        if record and record[key] != value:
            raise InputError(
                f'{path} is of --{OPTIONS[key]} {record[key]}, not {value}; give the same, or '
                'remove it'
            )
    return record.get('runs', {})


def _unmeasured_seeds(
    study: Study, row: Row, results: Path, measured_seeds: Collection[str]
) -> list[int]:
    """The seeds of a row that are recorded and not yet measured."""
    return [
        seed
        for seed in row.seeds
        if str(seed) not in measured_seeds and read_record(results, study, row, seed) is not None
    ]


def _weights(
    study: Study, row: Row, seed: int, folder: Path, count: int, data_root: str | None
) -> dict[str, np.ndarray]:
    """Quantiles of the weights after a run, by gate."""
    cfg = config_of(study, row, seed, data_root)
    predictor = Predictor(cfg, last_checkpoint(folder))
    dataset = dataset_of(cfg, 'val')
    by_gate: dict[str, list[np.ndarray]] = {}
    for index in evenly_spaced(len(dataset), count):
        prepared = predictor.prepare(dataset.get_data_info(index)['img_path'])
        for cbam_gates in gates(predictor.model, prepared.data):
            for gate in GATES:
                if (weights := getattr(cbam_gates, gate)) is not None:
                    by_gate.setdefault(gate, []).append(weights.ravel())
    return {
        gate: np.quantile(np.concatenate(arrays), (0.05, 0.5, 0.95))
        for gate, arrays in by_gate.items()
    }
