"""What `tools/compare.py` does: train the rows of a project, print the verdict, write the page."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from ..checkpoints.files import read_weights_only
from ..datasets.validation.config import check_data
from ..utils.config import find_config
from ..utils.environment import keep_memory
from ..utils.errors import InputError, first_few
from ..utils.installation import tool_command
from ..utils.records import last_checkpoint
from ..utils.run_config import RunConfig
from . import runs, verdicts
from .compare_page import measure_gates, score_table, verdict_sentences, warning, write
from .estimate import run_seconds
from .project_study import SPLITS, ProjectStudy
from .records import check_records, data_digits, outdated_runs, place_of, read_record
from .sentences import duration
from .study import Row, config_of, run_name


def compare_project(folder: Path, seeds: int | None = None, fast: bool = False) -> None:
    """Train and test the rows of a project that are not recorded yet, print the verdict, and write
    the page; an interrupted comparison continues. The verdict is first, since the page can fail.

    Args:
        folder: of the project.
        seeds: runs of each row, with the seeds from 0; None for the seeds of its study.
        fast: a quick test.

    Raises:
        InputError: it is not a project, its data cannot be used, a run failed, or records are of
            other configs than the project has now.
    """
    read_weights_only()
    keep_memory()
    with _quiet('reading the project'):
        project = ProjectStudy.read(folder, seeds, fast)
    _check_unchanged(project)
    check_records(project.study, project.results, work_dirs=project.work_dirs)
    print(project.study.title, flush=True)
    _train(project)
    with _quiet('measuring the attention'):
        measure_gates(project)
    _print_verdict(project)
    with _quiet('writing the page'):
        path = write(project)
    print(f'page: {path}')
    if command := _predict_command(project):
        print(f'on other images: {command}')


def _print_verdict(project: ProjectStudy) -> None:
    head, *rows = score_table(project)
    table = Table(*map(escape, head))
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for sentence in filter(None, (*verdict_sentences(project), warning(project))):
        print(sentence, flush=True)


@contextmanager
def _quiet(text: str) -> Iterator[None]:
    """Show `text` and hide what libraries print and log, such as each weight's initialization."""
    status = Status(text, console=Console(file=sys.stdout))
    logger = MMLogger.get_current_instance()  # made here, it prints to the stream of now
    level = logger.level
    logger.setLevel(logging.ERROR)  # init_weights warns of attention that pretrained weights lack
    try:
        with status, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'This DataLoader will create')  # more than cores
            yield
    finally:
        logger.setLevel(level)


def _predict_command(project: ProjectStudy) -> str:
    """The shell command for detections of the first row with a baseline; '' without its run."""
    row = project.compared[0]
    folder = (project.work_dirs / run_name(project.study, row, row.seeds[0])).resolve()
    checkpoint = last_checkpoint(folder)
    if checkpoint is None or not checkpoint.is_file():
        return ''
    config = folder / Path(find_config(row.config, announce=False)).name  # as MMEngine writes it
    return tool_command('predict', 'IMAGES', config, checkpoint)


def _check_unchanged(project: ProjectStudy) -> None:
    """Raise InputError if the configs or the annotations have changed since runs were recorded."""
    study, results = project.study, project.results
    changed = {place_of(results, study, *run): None for run in outdated_runs(study, results)}
    for row in study.rows.values():
        data = data_digits(study, row, row.seeds[0], None)
        for seed in row.seeds:
            record = read_record(results, study, row, seed) or {}
            if record.get('data', data) != data:
                changed[place_of(results, study, row, seed)] = None
    if changed:
        again = shlex.join(['rm', '-r', str(results), str(project.work_dirs)])
        raise InputError(
            'the config or the annotations have changed since these runs were recorded: '
            f'{first_few([*changed])}; undo the change, or train all runs again: {again}'
        )


def missing_runs(project: ProjectStudy) -> list[tuple[Row, int]]:
    """The runs without a record."""
    study = project.study
    return [run for run in study.runs() if read_record(project.results, study, *run) is None]


def _train(project: ProjectStudy) -> None:
    missing, study = missing_runs(project), project.study
    if not missing:
        print('all runs are recorded')
        return
    expected = _expected_seconds(project, [row for row, _ in missing])
    count = '1 training' if len(missing) == 1 else f'{len(missing)} trainings'
    total = duration(sum(expected[row.name] for row, _ in missing))
    print(f'{count}: about {total}. Ctrl-C stops with a checkpoint; the same command continues.')
    for number, (row, seed) in enumerate(missing):
        left = sum(expected[other.name] for other, _ in missing[number:])
        progress = f'training {number + 1} of {len(missing)}: {row.name}, seed {seed}'
        print(f'{progress}; about {duration(left)} left', flush=True)
        start = time.perf_counter()
        gpus = study.gpus or 0
        record = runs.run(study, row, seed, project.results, project.work_dirs, gpus)
        # A resumed run is shorter than the others will be.
        expected[row.name] = max(time.perf_counter() - start, record['train_seconds'])
        score = verdicts.first_score(study, row, record)
        print(f'  {score}, {duration(record["train_seconds"])} of training')


def _expected_seconds(project: ProjectStudy, rows: list[Row]) -> dict[str, float]:
    """Seconds of a run, by row; the data are checked before they are read.

    Each of its two tools takes as long to import its modules as this process took until now.
    """
    start = time.process_time()
    expected: dict[str, float] = {}
    checked = []
    for row in rows:
        if row.name in expected:
            continue
        cfg = config_of(project.study, row, row.seeds[0])
        loaders = [cfg.get(f'{split}_dataloader') for split in SPLITS]
        if loaders not in checked:  # rows may read the same data
            check_data(RunConfig.from_cfg(cfg), SPLITS)
            checked.append(loaders)
        with _quiet(f'timing a few steps of {escape(row.name)}'):
            expected[row.name] = 2 * start + run_seconds(cfg, project.study.gpus or 1)
    gc.collect()  # models are in cycles
    torch.cuda.empty_cache()  # for the trainings
    return expected
