"""What is measured of a study's rows beside its runs: their times, the weights of their gates."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from rich.progress import track

from ..benchmark import detectors
from ..errors import InputError
from ..hooks.audit import named_cbams
from ..results import write_record
from ..visualization.attention import gates
from ..visualization.detections import dataset_of, evenly
from ..visualization.subject import Subject
from .runs import last_checkpoint
from .study import (
    GATES,
    PROGRAM,
    Row,
    Study,
    config_of,
    cost_path,
    gates_path,
    read_record,
    run_name,
)


def costs(study: Study, results: Path, rounds: int, device: str) -> dict:
    """Measure a training step and inference of every row, in alternation, and write the record.

    Trainings are no measure: what else their machine does, and when, is in their times.
    """
    configs = {name: config_of(study, row, row.seeds[0]) for name, row in study.rows.items()}
    batch = next(iter(configs.values())).train_dataloader.batch_size
    record = detectors(configs, rounds, device, batch=batch)
    said = shlex.join(['python', *PROGRAM, 'cost', study.name])
    return write_record(cost_path(results, study), said, record)


def gate_weights(
    study: Study, results: Path, work_dirs: Path, count: int, data_root: str | None = None
) -> dict:
    """Take the weights of all CBAMs after the trainings that are recorded, and write the record.

    Args:
        work_dirs: where the runs and their last checkpoints lie.
        count: images, evenly over the validation set.
        data_root: folder to read instead of the configs'.

    Returns:
        'images'; 'rows': by row and gate the 5%, 50% and 95% quantiles of the weights, means over
        its runs; and 'runs': by row and gate those of each run, by seed.

    Raises:
        InputError: no run with attention is recorded, or the checkpoint of one is gone.
    """
    seen: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in study.rows.values():
        runs = [seed for seed in row.seeds if read_record(results, study, row, seed) is not None]
        for seed in track(runs, row.name, transient=True):
            folder = work_dirs / run_name(study, row, seed)
            for gate, found in _weights(study, row, seed, folder, count, data_root).items():
                of_row = seen.setdefault(row.name, {})
                of_row.setdefault(gate, {})[seed] = found.round(4).tolist()
    if not seen:
        raise InputError(f'no run of {study.name} with attention is recorded in {results}')
    means = {
        name: {
            gate: np.mean(list(by_seed.values()), axis=0).round(4).tolist()
            for gate, by_seed in by_gate.items()
        }
        for name, by_gate in seen.items()
    }
    said = shlex.join(['python', *PROGRAM, 'gates', study.name])
    return write_record(gates_path(results, study), said, dict(images=count, rows=means, runs=seen))


def _weights(
    study: Study, row: Row, seed: int, folder: Path, count: int, data_root: str | None
) -> dict[str, np.ndarray]:
    """Quantiles of the weights after a run, by gate; {} of a row without attention."""
    if not (folder / 'last_checkpoint').is_file():
        raise InputError(f'{folder} holds no checkpoint; give the --work-dirs of the runs')
    cfg = config_of(study, row, seed, data_root)
    subject = Subject(cfg, last_checkpoint(folder))
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
