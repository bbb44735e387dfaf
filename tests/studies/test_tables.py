"""What the tables and plots of a study say."""

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
from ..ledger import put_record
from .small_study import record


def test_comparison_is_the_paired_t_test():
    random = np.random.default_rng(0)
    base = dict(enumerate(random.normal(40, 1, 6)))
    ours = {
        seed: value + gap
        for (seed, value), gap in zip(base.items(), random.normal(1, 0.5, 6), strict=True)
    }
    ours[17] = 99.0  # a seed that the baseline lacks
    found = compare(ours, base)
    wanted = stats.ttest_rel([ours[seed] for seed in base], list(base.values()))
    low, high = wanted.confidence_interval()
    assert found.count == 6 and found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.verdict == 'helps'
    assert compare(base, ours).verdict == 'hurts'
    assert (
        compare({0: 1.0, 1: -1.0, 2: 0.1}, {0: 0.0, 1: 0.0, 2: 0.0}).verdict == 'no difference seen'
    )
    assert compare({0: 1.0}, {0: 0.0}).verdict == 'one seed: nothing'
    assert compare({0: 1.0}, {1: 0.0}) is None
    for base in ({0: 0.9, 1: 1.9}, {0: 1.0, 1: 2.0}):  # as where no detector finds anything
        alike = compare({0: 1.0, 1: 2.0}, base)
        assert alike.p is None and alike.verdict == 'all pairs alike: nothing'


def test_table_tells_means_spread_difference_and_the_paper_s(small, tmp_path):
    record(tmp_path / 'results', small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path / 'results', small, 'CBAM', [0.42, 0.45, 0.43])
    lines = table(small, tmp_path / 'results').splitlines()
    assert lines[2] == '| none | 3 | 41.00 ± 1.00 | 82.00 ± 2.00 |  |  |  |  | 27 |  |'
    assert lines[3] == (
        '| CBAM | 3 | 43.33 ± 1.53 | 86.67 ± 3.06 | +2.33 (+0.90 to +3.77) | 0.020 | helps '
        '| +4.67 (+1.80 to +7.54) | 28.1 | +1.10 |'
    )
    assert lines[4] == '| paper start | 0 |  |  |  |  |  |  |  |  |'
    origin = (
        '6 of 9 runs recorded, a training 2.0 minutes (median); a CPU (2 cores), 1 thread, torch '
        '2.12.1; commit 0123456. `python tools/experiment.py run small`. AP is the measure: where '
        'there is no effect, a comparison says helps or hurts 5% of the time'
    )
    assert lines[5:] == ['', origin]
    row = small.rows['paper start']
    left = replace(small, rows={**small.rows, 'paper start': replace(row, overrides={'a': 1})})
    put_record(tmp_path / 'results', left, left.rows['paper start'], 0)
    lines = table(small, tmp_path / 'results').splitlines()
    assert lines[-1] == f'{origin}. Records of rows or seeds that the study has no more: 1'
    record(tmp_path / 'results', small, 'paper start', [0.41, 0.41, 0.42])
    assert 'of the time, one or more of 2 up to 10%' in table(small, tmp_path / 'results')
    empty = table(small, tmp_path / 'none')
    assert '| none | 0 |  |  |  |  |  |  | 27 |  |' in empty and '0 of 9 runs recorded. `' in empty
    zoo = replace(small, rows={'a': Row('a', 'c', mmdet={'AP': 37.4}, seeds=[0])}, note='A note.')
    lines = table(zoo, tmp_path / 'none').splitlines()
    assert lines[0].endswith("| says | mmdet's AP |") and lines[2].endswith('|  |  |  | 37.4 |')
    assert lines[-1] == 'A note.'


@pytest.mark.parametrize(
    ('gates', 'told'),
    [
        (dict(channel=[0.996, 1.0, 1.004], spatial=[1.0, 1.0, 1.0]), True),
        (dict(channel=[0.996, 1.0, 1.004], spatial=[1.0, 1.0, 1.02]), False),
        (dict(channel=[0.5, 0.5, 0.5]), False),
    ],
)
def test_table_tells_that_attention_is_at_its_start_with_the_cure(gates, told, small, tmp_path):
    record(tmp_path, small, 'none', [0.40, 0.42, 0.41])
    record(tmp_path, small, 'CBAM', [0.41, 0.40, 0.42])
    taken = dict(rows={'CBAM': gates}, images=8, command='gates small')
    gates_path(tmp_path, small).write_text(json.dumps(taken))
    text = table(small, tmp_path)
    assert ('| no difference seen, attention at its start |' in text) == told
    assert ('changes nothing: CBAM; a longer schedule, or a larger lr_mult' in text) == told


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
    (gained,) = (line for line in gain.lines if line.get_marker() == 'o')
    seen = difference(small, small.rows['CBAM'], results, 'AP')
    assert gained.get_xydata()[0] == pytest.approx([15, seen.mean])
    (bars,) = gain.containers
    across, along = (bars.lines[2][n].get_segments()[0] for n in (0, 1))
    assert across[:, 0].tolist() == pytest.approx([13, 18])  # quartiles of the step
    assert along[:, 1].tolist() == pytest.approx([seen.low, seen.high])
    assert [list(line.get_ydata()) for line in curve.lines] == [
        pytest.approx([20.5, 41]),
        pytest.approx([100 * 1.3 / 6, 100 * 1.3 / 3]),
    ]
    ledger = ('--ledger', tmp_path / 'ledger', '--results', results)
    assert tool(*ledger, 'plot', 'small', '--out', tmp_path / 'a.svg') == 0
    assert (tmp_path / 'a.svg').stat().st_size > 10_000
    assert tool(*ledger, 'plot', 'small', '--out', tmp_path / 'b.svg') == 0
    assert (tmp_path / 'a.svg').read_bytes() == (tmp_path / 'b.svg').read_bytes()
    assert tool(*ledger, 'plot', 'small', '--out', tmp_path / 'a.gif') == 2


def test_learning_curves_are_of_the_seeds_that_compared_rows_share(small, tmp_path):
    results = tmp_path / 'results'
    record(results, small, 'none', [0.40, 0.42, 0.41])
    record(results, small, 'CBAM', [0.42, 0.45, 0.43])
    record(results, small, 'paper start', [0.30])
    _, curve = study_figure(small, results).axes
    assert [line.get_ydata()[-1] for line in curve.lines] == pytest.approx([40, 42, 30])


def test_plot_draws_no_two_rows_alike():
    study = read_study(ROOT / 'experiments' / 'bccd.yaml')
    _, curve, *_ = study_figure(study, ROOT / 'results' / 'experiments').axes
    looks = {(line.get_color(), line.get_linestyle()) for line in curve.lines}
    assert len(curve.lines) == len(looks) > 6  # more than there are colours
