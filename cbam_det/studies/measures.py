"""Measurements of a study's runs: time of a step, attention weights, Grad-CAM inside objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from rich.progress import track

from ..apis.inference import Predictor
from ..checkpoints.loading import check_checkpoint, weights_digest
from ..utils.config import CBAMS, is_detector, kind_of, walk
from ..utils.errors import InputError, first_few, print_stderr
from ..utils.records import last_checkpoint, write_record
from ..visualization.attention import gates
from ..visualization.detections import dataset_of, evenly_spaced
from .records import read_record
from .study import (
    GATES,
    Row,
    Study,
    command_of_study,
    config_of,
    cost_path,
    focus_path,
    gates_path,
    read_json,
    repeated_options,
    run_name,
)
from .timing import detectors


def costs(study: Study, results: Path, rounds: int, device: str) -> dict:
    """Time a training step and inference of every row in alternation, and write the record.

    The times of the trainings themselves are not used: they depend on what else the machine ran.

    Raises:
        InputError: no row is a detector, or there is no GPU for `device='cuda'`.
    """
    configs = {name: config_of(study, row, row.seeds[0]) for name, row in study.rows.items()}
    configs = {name: cfg for name, cfg in configs.items() if is_detector(cfg)}
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda: torch finds no GPU; leave it out to measure on the CPU')
    if not configs:
        raise InputError(f'{study.name} has no detector; cost measures detectors only')
    batch = next(iter(configs.values())).train_dataloader.batch_size
    record = detectors(configs, rounds, device, batch=batch)
    options = ['--rounds', rounds] + (['--device', device] if device != 'cpu' else [])
    command_line = command_of_study('cost', study, *options)
    return write_record(cost_path(results, study), command_line, record)


def gate_weights(
    study: Study, results: Path, work_dirs: Path, count: int, data_root: str | None = None
) -> dict:
    """Measure the attention weights of all CBAMs in the recorded runs, and write the record.

    Runs that are already in the record are not measured again, so that checkpoints on several
    machines can be measured one machine after the other. A run that was trained again is.

    Args:
        work_dirs: folder of the runs with their last checkpoints.
        count: number of images, evenly spaced over the validation set.
        data_root: folder to read instead of the configs' data_root.

    Returns:
        'images': `count`; 'rows': the 5%, 50% and 95% quantiles of the weights by row and gate, as
        means over the runs; 'runs': the quantiles of each run by row, gate and seed; 'digests': the
        `weights_digest` of each run by row and seed.

    Raises:
        InputError: no row has CBAM, no run of such a row is recorded, none has its checkpoint, or
            the record was made with another number of images. Single runs without their checkpoint
            are skipped.
    """
    rows = [
        row
        for row in study.rows.values()
        if any(kind_of(node) in CBAMS for _, node in walk(config_of(study, row, 0).model))
    ]
    if not rows:
        raise InputError(f'no row of {study.name} has CBAM, so there are no weights to measure')
    path = gates_path(results, study)
    measured: dict[str, dict[str, dict[str, list[float]]]] = _recorded_runs(
        path, dict(images=count)
    )
    digests: dict[str, dict[str, str | None]] = read_json(path).get('digests', {})
    given = repeated_options('--data-root', '--work-dirs')
    command_line = command_of_study('gates', study, '--count', count, *given)
    missing = []
    for row in rows:
        row_quantiles = measured.get(row.name, {})
        measured_seeds = {
            seed: [digests.get(row.name, {}).get(seed)]
            for by_seed in row_quantiles.values()
            for seed in by_seed
        }
        seeds = _unmeasured_seeds(study, [row], results, measured_seeds)
        for seed in track(seeds, escape(row.name), transient=True):
            folder = work_dirs / run_name(study, row, seed)
            record = read_record(results, study, row, seed)
            if record is None or not _has_weights(folder, record):
                missing.append(str(folder))
                continue
            row_quantiles = measured.setdefault(row.name, {})
            for by_seed in row_quantiles.values():  # the row may have had other gates
                by_seed.pop(str(seed), None)
            for gate, quantiles in _weights(study, row, seed, folder, count, data_root).items():
                row_quantiles.setdefault(gate, {})[str(seed)] = quantiles.round(4).tolist()
            digests.setdefault(row.name, {})[str(seed)] = record.get('weights')
            means = _means(study, measured)
            content = dict(images=count, rows=means, runs=measured, digests=digests)
            write_record(path, command_line, content)
    reason = f'no run of {study.name} with CBAM is recorded in {results}'
    _report_missing(missing, measured, f'{reason}; make records: {command_of_study("run", study)}')
    return read_json(path)


def _means(study: Study, measured: dict[str, dict[str, dict[str, list[float]]]]) -> dict:
    """The means over the seeds that the study has, by row and gate."""
    means: dict[str, dict[str, list[float]]] = {}
    for name, by_gate in measured.items():
        seeds = set(map(str, study.rows[name].seeds)) if name in study.rows else set()
        for gate, by_seed in by_gate.items():
            if quantiles := [by_seed[seed] for seed in by_seed if seed in seeds]:
                mean = np.mean(quantiles, axis=0).round(4).tolist()
                means.setdefault(name, {})[gate] = mean
    return means


def _has_weights(folder: Path, record: dict | None) -> bool:
    """Whether a folder has the recorded weights of its run, or any, if the record names none."""
    path = last_checkpoint(folder)
    if record is None or path is None:
        return False
    try:
        digest = weights_digest(check_checkpoint(str(path), 'weights'))
    except InputError:  # the file is missing or damaged
        return False
    return record.get('weights') in (None, digest)


def _report_missing(missing: list[str], measured: dict, nothing_recorded: str) -> None:
    """Print which runs were skipped.

    Raises:
        InputError: no run was measured.
    """
    reason = nothing_recorded
    if missing:
        reason = f'no checkpoint with the recorded weights in {first_few(missing)}'
    if not measured:
        raise InputError(
            f'{reason}; give the folder of the runs with --work-dirs' if missing else reason
        )
    if missing:
        print_stderr(
            f'{len(missing)} runs are skipped: {reason}; give their folder with --work-dirs'
        )


def heat_inside(
    study: Study,
    results: Path,
    work_dirs: Path,
    count: int,
    score: float,
    data_root: str | None = None,
) -> dict:
    """Measure the share of Grad-CAM's heat inside the objects of the test images, and write it.

    Each run of a row is compared with its baseline's run of the same seed; see `focus.focus`. Pairs
    that are already in the record are not measured again, unless one was trained again.

    Args:
        work_dirs: folder of the runs with their last checkpoints.
        count: number of images, evenly spaced over the test set.
        score: detections with a lower score are ignored, 0 to 1.
        data_root: folder to read instead of the configs' data_root.

    Returns:
        'images': `count`; 'score'; 'runs': the result of `focus.focus` by row and seed, the
        baseline first, with the `weights_digest` of both as 'digests'.

    Raises:
        InputError: no detector has a baseline, no such pair is recorded, none has its checkpoints,
            or the record was made with other options. Pairs without a checkpoint are skipped.
    """
    from ..visualization.focus import focus
    from ..visualization.gradcam import Explainer

    pairs = [
        (row, base)
        for row in study.rows.values()
        if (base := study.baseline(row)) and is_detector(config_of(study, row, 0))
    ]
    if not pairs:
        raise InputError(f'no detector of {study.name} has a baseline (against) to compare it with')
    path = focus_path(results, study)
    measured: dict[str, dict[str, dict]] = _recorded_runs(path, dict(images=count, score=score))
    options = ['--count', count, '--score', f'{score:g}']
    given = repeated_options('--data-root', '--work-dirs')
    command_line = command_of_study('focus', study, *options, *given)
    missing: list[str] = []
    for row, base in pairs:
        measured_seeds = {
            seed: heat.get('digests', [None, None])
            for seed, heat in measured.get(row.name, {}).items()
        }
        seeds = _unmeasured_seeds(study, [base, row], results, measured_seeds)
        for seed in track(seeds, escape(row.name), transient=True):
            records = [read_record(results, study, compared, seed) for compared in (base, row)]
            folders = [work_dirs / run_name(study, compared, seed) for compared in (base, row)]
            without_weights = [
                str(folder)
                for folder, record in zip(folders, records, strict=True)
                if not _has_weights(folder, record)
            ]
            missing += without_weights
            if without_weights:
                continue
            explainers = []
            for compared, folder in zip((base, row), folders, strict=True):
                cfg = config_of(study, compared, seed, data_root)
                predictor = Predictor(cfg, str(last_checkpoint(folder)), compared.name)
                explainers.append(Explainer(predictor))
            heat = focus(explainers[1].predictor.cfg, explainers, 'test', count, score)
            heat['digests'] = [record.get('weights') for record in records if record]
            measured.setdefault(row.name, {})[str(seed)] = heat
            write_record(path, command_line, dict(images=count, score=score, runs=measured))
    reason = f'{results} has no detector of {study.name} and its baseline with the same seed'
    _report_missing(missing, measured, f'{reason}; make records: {command_of_study("run", study)}')
    return read_json(path)


# Key of a record -> command-line option.
OPTIONS = dict(images='count', score='score')


def _recorded_runs(path: Path, options: dict[str, float]) -> dict:
    """The runs of an earlier record with the same options, or {} if there is no record."""
    record = read_json(path)
    for key, value in options.items():
        if record and record[key] != value:
            raise InputError(
                f'{path} was made with --{OPTIONS[key]} {record[key]}, not {value}; use the same '
                'value, or remove the file'
            )
    return record.get('runs', {})


def _unmeasured_seeds(
    study: Study, rows: Sequence[Row], results: Path, measured: Mapping[str, Sequence[str | None]]
) -> list[int]:
    """The seeds for which all of `rows` have a record, but no measurement of the weights in it.

    Args:
        measured: the digests of the weights that were measured, by seed; None if they are unknown.
    """
    unmeasured = []
    for seed in rows[-1].seeds:
        records = [read_record(results, study, row, seed) for row in rows]
        now = [record.get('weights') for record in records if record]
        then = measured.get(str(seed))
        is_current = then is not None and all(
            None in pair or pair[0] == pair[1] for pair in zip(then, now, strict=False)
        )
        if None not in records and not is_current:
            unmeasured.append(seed)
    return unmeasured


def _weights(
    study: Study, row: Row, seed: int, folder: Path, count: int, data_root: str | None
) -> dict[str, np.ndarray]:
    """The 5%, 50% and 95% quantiles of the attention weights of a run, by gate."""
    cfg = config_of(study, row, seed, data_root)
    predictor = Predictor(cfg, str(last_checkpoint(folder)))
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
