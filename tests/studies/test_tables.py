"""Tables and plots of a study."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cbam_det.studies.comparison import compare
from cbam_det.studies.figure import study_figure
from cbam_det.studies.study import Row, cost_path, gates_path, read_study
from cbam_det.studies.verdicts import difference, table
from cbam_det.utils.errors import InputError

from ..conftest import ROOT
from ..study_records import change_record, put_record
from .small_study import record


def test_comparison_is_the_paired_t_test():
    random = np.random.default_rng(0)
    base = dict(enumerate(random.normal(40, 1, 6)))
    ours = {
        seed: value + gap
        for (seed, value), gap in zip(base.items(), random.normal(1, 0.5, 6), strict=True)
    }
    ours[17] = 99.0  # a seed that the baseline lacks
    comparison = compare(ours, base)
    t_test = stats.ttest_rel([ours[seed] for seed in base], list(base.values()))
    low, high = t_test.confidence_interval()
    assert comparison.count == 6 and comparison.p == pytest.approx(t_test.pvalue)
    assert (comparison.low, comparison.high) == pytest.approx((low, high))
    assert comparison.verdict == 'better'
    assert compare(base, ours).verdict == 'worse'
    assert (
        compare({0: 1.0, 1: -1.0, 2: 0.1}, {0: 0.0, 1: 0.0, 2: 0.0}).verdict == 'no difference seen'
    )
    assert compare({0: 1.0}, {0: 0.0}).verdict == 'one seed, no verdict'
    assert compare({0: 1.0}, {1: 0.0}) is None
    for base in ({0: 0.9, 1: 1.9}, {0: 1.0, 1: 2.0}):  # as if no detector finds anything
        equal = compare({0: 1.0, 1: 2.0}, base)
        assert equal.p is None and equal.verdict == 'equal differences, no verdict'


def test_table_shows_means_deviations_differences_and_the_paper_s_results(small, tmp_path):
    record(tmp_path / 'results', small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path / 'results', small, 'CBAM', [0.42, 0.45, 0.43])
    lines = table(small, tmp_path / 'results').splitlines()
    assert lines[2] == '| none | 3 | 41.00 ± 1.00 | 82.00 ± 2.00 |  |  |  |  | 27.0 |  |'
    assert lines[3] == (
        '| CBAM | 3 | 43.33 ± 1.53 | 86.67 ± 3.06 | +2.33 (+0.90 to +3.77) | 0.020 | better '
        '| +4.67 (+1.80 to +7.54) | 28.1 | +1.10 |'
    )
    assert lines[4] == '| paper start | 0 |  |  |  |  |  |  |  |  |'
    origin = (
        '6 of 9 runs recorded; 2.0 minutes per training (median); a CPU (2 cores), 1 thread, torch '
        '2.12.1; commit 0123456. `python tools/experiment.py run small`. Verdicts are on AP: '
        'without any effect, a verdict is better or worse in 5% of cases. '
        'An interval of ±0.5 points would take about 8 seeds for AP'
    )
    assert lines[5:] == ['', origin]
    row = small.rows['paper start']
    changed = replace(small, rows={**small.rows, 'paper start': replace(row, overrides={'a': 1})})
    put_record(tmp_path / 'results', changed, changed.rows['paper start'], 0)
    lines = table(small, tmp_path / 'results').splitlines()
    assert lines[-1] == f'{origin}. Records of removed rows or seeds: 1'
    record(tmp_path / 'results', small, 'paper start', [0.41, 0.41, 0.42])
    text = table(small, tmp_path / 'results')
    assert 'of cases, and at least one of 2 in up to 10%' in text
    assert 'An interval of ±0.5 points would take about 8 to 23 seeds for AP' in text
    empty = table(small, tmp_path / 'none')
    assert (
        '| none | 0 |  |  |  |  |  |  | 27.0 |  |' in empty and '0 of 9 runs recorded. `' in empty
    )
    zoo = replace(small, rows={'a': Row('a', 'c', mmdet={'AP': 37.4}, seeds=[0])}, note='A note.')
    lines = table(zoo, tmp_path / 'none').splitlines()
    assert lines[0].endswith("| verdict | mmdet's AP |") and lines[2].endswith('|  |  |  | 37.4 |')
    assert lines[-1] == 'A note.'


def test_cells_with_fewer_seeds_than_the_row_say_so(small, tmp_path):
    record(tmp_path, small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path, small, 'CBAM', [0.42, 0.45, 0.43])
    metrics = {'coco/bbox_mAP': 0.42, 'coco/bbox_mAP_50': None}
    change_record(tmp_path, small, small.rows['CBAM'], 0, metrics=metrics)
    lines = table(small, tmp_path).splitlines()
    assert lines[2].startswith('| none | 3 | 41.00 ± 1.00 | 82.00 ± 2.00 |')
    assert lines[3].startswith('| CBAM | 3 | 43.33 ± 1.53 | 88.00 ± 2.83 (n 2) |')
    assert '| +5.00 (-7.71 to +17.71), 2 pairs |' in lines[3]
    record(tmp_path, small, 'CBAM', [0.42, 0.45, 0.43])
    change_record(tmp_path, small, small.rows['none'], 0, metrics=metrics)
    lines = table(small, tmp_path).splitlines()
    assert lines[2].startswith('| none | 3 | 41.67 ± 0.58 | 83.00 ± 1.41 (n 2) |')
    assert lines[3].startswith('| CBAM | 3 | 43.33 ± 1.53 | 86.67 ± 3.06 | ')
    assert '| +5.00 (-7.71 to +17.71), 2 pairs |' in lines[3]


def test_more_seeds_than_anyone_trains_are_called_more_than_a_thousand(small, tmp_path):
    record(tmp_path, small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path, small, 'CBAM', [0.1, 0.9, 0.5])
    assert ' would take more than 1,000 seeds for AP' in table(small, tmp_path)
    record(tmp_path, small, 'paper start', [0.41, 0.41, 0.42])
    assert ' would take about 23 to more than 1,000 seeds for AP' in table(small, tmp_path)


@pytest.mark.parametrize(
    ('gates', 'unchanged'),
    [
        (dict(channel=[0.996, 1.0, 1.004], spatial=[1.0, 1.0, 1.0]), True),
        (dict(channel=[0.996, 1.0, 1.004], spatial=[1.0, 1.0, 1.02]), False),
        (dict(channel=[0.5, 0.5, 0.5]), False),
    ],
)
def test_table_reports_unchanged_attention_with_a_remedy(gates, unchanged, small, tmp_path):
    record(tmp_path, small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path, small, 'CBAM', [0.41, 0.40, 0.42])
    gate_record = dict(rows={'CBAM': gates}, images=8, command='gates small')
    gates_path(tmp_path, small).write_text(json.dumps(gate_record))
    text = table(small, tmp_path)
    assert ('| no difference seen, attention unchanged |' in text) == unchanged
    assert ('The attention of CBAM is still at its initial weights' in text) == unchanged
    assert ('a longer schedule or a larger lr_mult' in text) == unchanged


def test_plot_shows_every_seed_the_gains_and_the_validations(small, tool, tmp_path, capsys):
    results = tmp_path / 'results'
    with pytest.raises(InputError, match='no run of small is recorded'):
        study_figure(small, results)
    record(results, small, 'none', [0.40, 0.42, 0.41])
    record(results, small, 'CBAM', [0.42, 0.45, 0.43])
    seeds, curve = study_figure(small, results).axes
    times = {
        name: dict(train_ms=[ms, ms - 4, ms + 6]) for name, ms in (('none', 200), ('CBAM', 230))
    }
    cost_path(results, small).write_text(json.dumps(dict(rows=times)))
    figure = study_figure(small, results)
    *_, gain = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['none', 'CBAM']
    points = [line.get_xydata()[0].tolist() for line in seeds.lines if line.get_alpha() == 0.7]
    assert points == [[100 * v, 0] for v in (0.4, 0.42, 0.41)] + [[42, 1], [45, 1], [43, 1]]
    assert [label.get_text() for label in seeds.get_yticklabels()] == ['none', 'CBAM']
    (point,) = (line for line in gain.lines if line.get_marker() == 'o')
    comparison = difference(small, small.rows['CBAM'], results, 'AP')
    assert point.get_xydata()[0] == pytest.approx([15, comparison.mean])
    (bars,) = gain.containers
    horizontal, vertical = (bars.lines[2][n].get_segments()[0] for n in (0, 1))
    assert horizontal[:, 0].tolist() == pytest.approx([13, 18])  # quartiles of the step
    assert vertical[:, 1].tolist() == pytest.approx([comparison.low, comparison.high])
    assert [list(line.get_ydata()) for line in curve.lines] == [
        pytest.approx([20.5, 41]),
        pytest.approx([100 * 1.3 / 6, 100 * 1.3 / 3]),
    ]
    options = ('--studies', tmp_path / 'studies', '--results', results)
    assert tool(*options, 'plot', 'small', '--out', tmp_path / 'a.svg') == 0
    assert (tmp_path / 'a.svg').stat().st_size > 10_000
    assert tool(*options, 'plot', 'small', '--out', tmp_path / 'b.svg') == 0
    assert (tmp_path / 'a.svg').read_bytes() == (tmp_path / 'b.svg').read_bytes()
    assert tool(*options, 'plot', 'small', '--out', tmp_path / 'a.gif') == 2
    cost_path(results, small).write_text(json.dumps(dict(rows={})))
    assert [axis.get_visible() for axis in study_figure(small, results).axes] == [True, True, False]


def test_rows_whose_metrics_have_equal_names_but_other_keys_are_in_tables_of_their_own(small):
    other = Row('VOC', 'c', metrics={'AP': 'pascal_voc/mAP', 'AP50': 'pascal_voc/AP50'}, seeds=[0])
    groups = replace(small, rows={**small.rows, 'VOC': other}).measured_alike()
    assert [[row.name for row in group] for group in groups] == [[*small.rows], ['VOC']]


def test_seed_has_its_mark_in_every_row_of_a_plot(small, tmp_path):
    row = replace(small.rows['CBAM'], seeds=[1, 2])
    study = replace(small, rows={**small.rows, 'CBAM': row})
    for name, seeds in (('none', [0, 1, 2]), ('CBAM', [1, 2])):
        for seed in seeds:
            put_record(tmp_path, study, study.rows[name], seed, metrics={'coco/bbox_mAP': 0.4})
    axis = study_figure(study, tmp_path).axes[0]
    marks = [line.get_marker() for line in axis.lines if line.get_alpha() == 0.7]
    assert marks == ['o', 's', 'D', 's', 'D']


def test_learning_curves_use_the_seeds_that_compared_rows_share(small, tmp_path):
    results = tmp_path / 'results'
    record(results, small, 'none', [0.40, 0.42, 0.41])
    record(results, small, 'CBAM', [0.42, 0.45, 0.43])
    record(results, small, 'paper start', [0.30])
    _, curve = study_figure(small, results).axes
    assert [line.get_ydata()[-1] for line in curve.lines] == pytest.approx([40, 42, 30])


def test_rows_in_a_plot_differ_in_colour_or_line_style():
    study = read_study(ROOT / 'experiments' / 'bccd.yaml')
    _, curve, *_ = study_figure(study, ROOT / 'results' / 'experiments').axes
    styles = {(line.get_color(), line.get_linestyle()) for line in curve.lines}
    assert len(curve.lines) == len(styles) > 6  # more than there are colours
