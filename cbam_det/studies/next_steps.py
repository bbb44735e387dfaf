"""What to try after a comparison: seeds, longer training, attention's learning rate, places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from ..utils.config import larger_rate
from ..utils.installation import tool_command
from ..utils.options import parse_options
from .comparison import seeds_needed
from .project_study import ProjectStudy
from .records import read_record
from .sentences import duration
from .study import Row, config_of, gates_path, read_json
from .verdicts import difference, rows_at_start

TOO_MANY = 50


def next_steps(project: ProjectStudy) -> tuple[list[str], list[str]]:
    """What to try next, as sentences, and rows to paste into the project's study, as lines of YAML.

    Of a quick test it is the comparison itself.
    """
    if project.is_fast:
        return [f'Run the comparison itself: `{project.command()}`'], []
    items = [item for row in project.compared for item in _seeds(project, row)]
    rows: dict[str, dict] = {}
    for row in project.compared:
        if is_unchanged(project, row):
            items.append(
                f'The attention of {row.name} is still at its initial weights of 1.00 and has no '
                f'effect, so train it with a larger learning rate: {_rate(project, row, rows)}'
            )
        if _is_rising(project, row):
            items.append(
                f'{row.name} was still improving at its last validation, so train longer: copy '
                f'{project.folder} without its results and work_dirs, and raise the number of '
                'epochs in baseline.py.'
            )
    config = project.folder / 'baseline.py'
    places = tool_command('places', config)
    items.append(
        f'Attention at another place: `{places}` lists the places in this detector. Copy cbam.py, '
        'change its `after` or `stages`, and add a row with that config to study.yaml.'
    )
    lines = []
    if rows:
        text = yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=1000)
        lines = [f'  {line}' for line in text.splitlines()]
    return items, lines


def is_unchanged(project: ProjectStudy, row: Row) -> bool:
    """Whether the recorded weights of a row's gates are all 1.00."""
    record = read_json(gates_path(project.results, project.study))
    return row.name in rows_at_start(record.get('rows', {}))


def _seeds(project: ProjectStudy, row: Row) -> list[str]:
    metric = next(iter(project.study.metrics_of(row)))
    comparison = difference(project.study, row, project.results, metric)
    if comparison is None:
        return []
    count = comparison.count
    if comparison.low is None or comparison.high is None:
        return [
            f'At least three seeds, to get a useful interval: `{project.command("--seeds", "3")}`'
        ]
    if comparison.low == comparison.high:
        return [
            f'The differences of {row.name} are equal for all seeds, so more seeds would give no '
            'verdict. Scores usually vary with the seed: look whether the detectors have learned '
            'anything, and whether the test set is large enough.'
        ]
    if not comparison.low <= 0 <= comparison.high:
        more = project.command('--seeds', str(2 * count))
        return [f'Twice as many seeds narrow the interval of {row.name}: `{more}`']
    needed = seeds_needed(comparison, 1)
    if needed is not None and needed <= count:
        return [f'More seeds would hardly change the verdict on {row.name}.']
    if needed is None or needed > TOO_MANY:
        return [
            f'The differences of {row.name} vary so much that {TOO_MANY} seeds would not show a '
            'difference of 1 point. More or cleaner images help more, above all in the test set.'
        ]
    pair = sum(_training_seconds(project, name) for name in (row.name, row.against) if name)
    return [
        f'More seeds: `{project.command("--seeds", str(needed))}` takes about '
        f'{duration((needed - count) * pair)} and shows a difference of 1 point in 4 of 5 cases. '
        'Choose the number now: adding seeds until the interval excludes 0 finds differences '
        'that do not exist.'
    ]


def _training_seconds(project: ProjectStudy, name: str) -> float:
    row = project.study.rows[name]
    records = [read_record(project.results, project.study, row, seed) for seed in row.seeds]
    return float(np.mean([record['train_seconds'] for record in records if record] or [0]))


def _rate(project: ProjectStudy, row: Row, rows: dict[str, dict]) -> str:
    """What gives the row's attention ten times its learning rate; a row of it goes into `rows`."""
    option = larger_rate(config_of(project.study, row, row.seeds[0]))
    pasted = option.removeprefix('--cfg-options ')
    if pasted == option:  # for a config, as such a key cannot be an option
        return f'write `{option}` into a copy of its config, and add a row with that to study.yaml.'
    config = Path(row.config)
    if config.is_relative_to(project.folder):
        config = config.relative_to(project.folder)
    overrides = {**row.overrides, **parse_options([pasted])}
    name = f'{row.name}, learning rate of attention x10'
    rows[name] = dict(config=str(config), against=row.against, overrides=overrides)
    return (
        'add the row below to the `rows` of study.yaml and repeat the command, which trains only '
        'this row.'
    )


def _is_rising(project: ProjectStudy, row: Row) -> bool:
    """Whether the last of three validations or more is the best one, in each run of a row."""
    key = next(iter(project.study.metrics_of(row).values()))
    curves = []
    for seed in row.seeds:
        record = read_record(project.results, project.study, row, seed) or dict(validation={})
        steps = sorted(record['validation'], key=int)
        # Validations without such objects have None, as AP of small ones.
        curves.append([record['validation'][step].get(key) or 0 for step in steps])
    return all(len(curve) >= 3 and curve[-1] > max(curve[:-1]) for curve in curves)
