"""The page of a comparison: one HTML file that opens with the verdict."""

from __future__ import annotations

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from ..apis.inference import Predictor
from ..models.costs import count_costs
from ..utils.errors import InputError
from ..visualization.curves import curves
from ..visualization.detections import dataset_of, evenly_spaced, side_by_side
from ..visualization.gradcam import Explainer, gradcam_page
from ..visualization.report import (
    Section,
    TrainedRun,
    attention_section,
    difference_section,
    figure_section,
    picture,
    setup_section,
    write_page,
)
from .breakdown import breakdown_tables
from .figure import study_figure
from .measures import gate_weights
from .next_steps import is_unchanged, next_steps
from .project_study import FAST_IMAGES, FAST_STEPS, ProjectStudy
from .records import read_record
from .sentences import duration, interval, verdict_sentence
from .study import Row, config_of, run_name
from .verdicts import difference, pairs_note, score_cell, values

IMAGES, SCORE = 5, 0.3  # of the detections that are shown
HOW_TO_READ = (
    'Rows are compared seed by seed. The interval (95%, Student’s t) is that of the mean '
    'difference: if 0 is inside, chance alone can explain the difference. Without any effect it '
    'excludes 0 in 5% of comparisons.'
)


def write(project: ProjectStudy) -> Path:
    """Write the page of a project whose runs are recorded; see `ProjectStudy`.

    Returns:
        Its path. What cannot be shown, as of a run whose checkpoint is gone, is named in its place.
    """
    gates_problem = measure_gates(project)
    steps, yaml_rows = next_steps(project)
    try:
        pictures, details = _first_seed(project)
    except InputError as error:
        pictures, details = [Section('detections', note=str(error))], []
    sections = [
        Section('scores', tables=[score_table(project)], note=HOW_TO_READ),
        figure_section('curves', lambda: study_figure(project.study, project.results), 'svg'),
        _classes_and_sizes(project),
        *pictures,
        _costs(project),
        Section('what to try next', items=steps, lines=yaml_rows, note=gates_problem),
        *details,
    ]
    return write_page(
        project.output / 'report.html',
        project.study.title,
        sections,
        verdict_sentences(project),
        warning(project),
    )


def measure_gates(project: ProjectStudy) -> str:
    """Record the attention weights of the runs, which the verdict needs.

    Returns:
        Why they cannot be measured; '' if they can.
    """
    try:
        gate_weights(project.study, project.results, project.work_dirs, 8)
    except InputError as error:
        return str(error)
    return ''


def warning(project: ProjectStudy) -> str:
    """What a quick test (`--fast`) does not show; '' for others."""
    if not project.is_fast:
        return ''
    return (
        f'This was a quick test (--fast): one seed, {FAST_STEPS} training steps, at most '
        f'{FAST_IMAGES} test images. It shows that everything runs, and proves nothing about '
        f'attention. The comparison itself: {project.command()}'
    )


def verdict_sentences(project: ProjectStudy) -> list[str]:
    """The verdict on each row that has a baseline."""
    study, sentences = project.study, []
    for row in project.compared:
        metric = next(iter(study.metrics_of(row)))
        comparison = difference(study, row, project.results, metric)
        if comparison is None or row.against is None:
            continue
        sentence = verdict_sentence(row.name, row.against, metric, comparison)
        if is_unchanged(project, row) and not project.is_fast:
            sentence += (
                f' The attention of {row.name} is still at its initial weights and has no effect: '
                'see what to try next.'
            )
        sentences.append(sentence)
    return sentences


def score_table(project: ProjectStudy) -> list[list[str]]:
    """Every metric, mean and standard deviation over the seeds, and the difference of the first."""
    study, rows = project.study, project.shown
    metrics = list(dict.fromkeys(name for row in rows for name in study.metrics_of(row)))
    first = metrics[0]
    table = [['in percent', 'seeds', *metrics, f'{first}, difference (95% interval)']]
    for row in rows:
        by_metric = [values(study, row, project.results, metric) for metric in metrics]
        comparison = difference(study, row, project.results, first)
        count = len(by_metric[0])
        gap = f'{interval(comparison)}{pairs_note(comparison, count)}' if comparison else ''
        means = [score_cell(by_seed, count, digits=1) for by_seed in by_metric]
        table.append([row.name, str(count), *means, gap])
    return table


def _classes_and_sizes(project: ProjectStudy) -> Section:
    section = Section('AP by size and class')
    section.note = 'the test has no COCO metrics, so there is no AP by size and class'
    if tables := breakdown_tables(project.study, project.results):
        section.tables = [rows for rows, _ in tables]
        head = 'In percent; n is the number of seeds. The classes are sorted by their difference.'
        section.note = ' '.join([head, *(note for _, note in tables if note)])
    return section


def _first_seed(project: ProjectStudy) -> tuple[list[Section], list[Section]]:
    """What the runs of the first seed show (logs, detections, attention), and their configs.

    Raises:
        InputError: files of a run are missing or damaged.
    """
    study, rows = project.study, project.shown
    seed = min(set.intersection(*({*row.seeds} for row in rows)), default=rows[0].seeds[0])
    runs = {
        row.name: TrainedRun.of(project.work_dirs / run_name(study, row, seed), None)
        for row in rows
    }
    for name, run in runs.items():
        run.log.name = name
    predictors = {name: Predictor(run.cfg, str(run.checkpoint), name) for name, run in runs.items()}
    pictures = [
        Section(
            f'training, seed {seed}',
            pictures=[picture(curves([run.log for run in runs.values()]), 'svg')],
        ),
        figure_section(
            f'detections, seed {seed}',
            lambda: side_by_side(list(predictors.values()), IMAGES, SCORE),
        ),
    ]
    details = []
    for row in project.compared:
        base = row.against or ''
        pictures += _attention_and_heat(project, row, predictors[row.name], predictors[base])
        section = difference_section([runs[row.name], runs[base]])
        section.title = f'config of {row.name} against {base}'
        details.append(section)
    return pictures, [*details, setup_section(runs[rows[0].name])]


def _attention_and_heat(
    project: ProjectStudy, row: Row, predictor: Predictor, base: Predictor
) -> list[Section]:
    """The attention in the first test image shown, and Grad-CAM in the first with a detection."""
    dataset = dataset_of(predictor.cfg, 'test')
    paths = [
        dataset.get_data_info(index)['img_path'] for index in evenly_spaced(len(dataset), IMAGES)
    ]
    score = 0 if project.is_fast else SCORE  # a few steps reach no such score

    def heat() -> Figure:
        for path in paths:
            predictions = predictor.predict(predictor.prepare(path))
            if predictions and float(predictions[0].score) >= score:  # by decreasing score
                explainers = [Explainer(predictor), Explainer(base)]
                return gradcam_page(path, explainers, score, count=3)
        raise InputError(
            f'{row.name} detects nothing with a score of {score:g} or more in the {len(paths)} '
            'images above'
        )

    attention = attention_section(predictor, lambda: paths[0])
    attention.title = f'attention of {row.name}'
    return [attention, figure_section(f'Grad-CAM of {row.name} and {base.name}', heat)]


def _costs(project: ProjectStudy) -> Section:
    """Time and memory as the runs measured them, and what a config's detector counts."""
    study, rows = project.study, project.shown
    head = ['', 'training, median', 'memory, MiB', 'parameters', 'of these attention']
    table = [[*head, 'multiply-adds, 1e9', 'image']]
    notes = ['Time and memory are those of the trainings. Other programs add to the time.']
    medians: dict[str, tuple[float, float]] = {}
    for row in rows:
        records = [read_record(project.results, study, row, seed) for seed in row.seeds]
        measured = [record for record in records if record]
        if not measured:
            continue
        medians[row.name] = (
            statistics.median(record['train_seconds'] for record in measured),
            statistics.median(record.get('memory_mib', 0) for record in measured),
        )
        base = medians.get(row.against or '')
        seconds, memory = medians[row.name]
        cells = [
            row.name,
            duration(seconds) + _change(seconds, base and base[0]),
            f'{memory:,.0f}' + _change(memory, base and base[1]),
        ]
        try:
            cost = count_costs(config_of(study, row, row.seeds[0]))
            cells += [f'{cost.parameters:,}', f'{cost.attention:,}']
            cells += [f'{cost.multiply_adds / 1e9:.2f}', 'x'.join(map(str, cost.size))]
        except InputError as error:
            notes.append(f'{row.name}: {error}.')
        table.append([*cells, *[''] * (len(table[0]) - len(cells))])
    return Section('cost', tables=[table], note=' '.join(notes))


def _change(value: float, base: float | None) -> str:
    return f' ({100 * (value / base - 1):+.0f}%)' if base else ''
