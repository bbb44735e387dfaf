"""The report of a run: one HTML file that contains everything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from cbam_det.visualization import report as report_module
from cbam_det.visualization.curves import TrainingLog
from cbam_det.visualization.report import Section, TrainedRun, attention_section, write

from ..conftest import CONFIG, CONFIGS, QUICK

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='session')
def report(trained, digits, run, tmp_path_factory):
    """A run of two epochs, compared with a run of the baseline that was not tested."""
    folder = tmp_path_factory.mktemp('report')
    shutil.copytree(trained / 'work', folder / 'cbam')
    data = ('--data-root', digits)
    options = (*data, '--cfg-options', *QUICK, 'train_cfg.max_epochs=1')
    baseline = CONFIGS / 'faster_rcnn_r50_digits.py'
    run('train.py', baseline, '--work-dir', 'baseline', *options, cwd=folder)
    run('test.py', CONFIG, 'cbam/epoch_2.pth', '--work-dir', 'cbam', *data, cwd=folder)
    run('visualize.py', 'report', 'cbam', '--against', 'baseline', *data, cwd=folder)
    return folder / 'report.html'


def test_report_opens_with_the_scores_has_all_sections_and_needs_no_network(report):
    text = report.read_text(encoding='utf-8')
    titles = re.findall(r'<h2 id="s\d">(.*?)</h2>', text)
    assert titles == [
        *('scores', 'training curves', 'detections', 'attention', 'Grad-CAM', 'cost'),
        *('setup', 'config changes from the baseline'),
    ]
    assert 'cbam: faster_rcnn_r50_cbam_digits' in text
    assert re.search(r'class="add">\+.*plugins', text)
    assert 'AP small' in text and '>four<' in text
    last = r'AP \d\.\d{3}, AP50 \d\.\d{3}'
    assert re.search(rf'baseline was not tested \(last validation: {last}\); run python ', text)
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    pictures = re.findall(r'src="data:image/(png|svg\+xml);base64,', text)
    # The section Grad-CAM has a picture, or a note that no detection reaches the score.
    assert pictures.count('png') >= 2 and pictures.count('svg+xml') == 1
    assert pictures.count('png') == 3 or 'lower --score' in text


def test_numbers_of_the_report_are_those_of_the_run(report):
    text = report.read_text(encoding='utf-8')
    record = next(report.parent.glob('cbam/*/metrics.json')).read_text()
    ap = float(re.search(r'"coco/bbox_mAP": ([\d.]+)', record)[1])
    assert f'<td>{ap:.3f}</td>' in text
    assert '<td>max_epochs 2</td>' in text  # of the training; the config itself has 5
    assert '<td>17</td>' not in text and '<td>16</td>' in text  # CBAMs


@pytest.mark.parametrize(('weight', 'noted'), [(1.0, True), (1.02, False)])
def test_attention_at_its_start_is_noted_with_the_remedy(weight, noted, monkeypatch):
    def section(title: str, make: object) -> Section:
        return Section(title, pictures=['a picture'])

    cbam_gates = SimpleNamespace(channel=torch.full((1, 8), weight), spatial=None)
    monkeypatch.setattr(report_module, 'figure_section', section)
    monkeypatch.setattr(report_module, 'gates', lambda model, data: [cbam_gates])
    predictor = mock.Mock(cfg=Config(dict(optim_wrapper=dict())))
    note = attention_section(predictor, lambda: 'a.jpg').note
    assert note.startswith('the attention has no effect') == noted
    assert note.endswith('optim_wrapper.paramwise_cfg.custom_keys.cbam.lr_mult=10') == noted


def test_runs_whose_folders_have_one_name_keep_their_own_scores(monkeypatch, tmp_path):
    def run(work_dir: Path, data_root: object) -> TrainedRun:
        score = 0.25 if work_dir.parent.name == 'A' else 0.75
        record = dict(metrics={'coco/bbox_mAP': score}, checkpoint='a.pth')
        log = TrainingLog(work_dir.name, {'loss': ([1], [1.0])})
        return TrainedRun(
            work_dir, Config(dict(a=1), filename=__file__), Path('a.pth'), log, record
        )

    def no_section(*_: object) -> Section:
        return Section('')

    names: list[str] = []
    monkeypatch.setattr(TrainedRun, 'of', run)
    monkeypatch.setattr(report_module, 'Predictor', lambda cfg, path, name: names.append(name))
    for section in ('figure_section', 'attention_section', '_costs', 'setup_section'):
        monkeypatch.setattr(report_module, section, no_section)
    out = write(tmp_path / 'A/run', tmp_path / 'report.html', tmp_path / 'B/run')
    rows = re.findall(r'>(run[^<]*)</t[dh]>\s*<td>([\d.]+)', out.read_text(encoding='utf-8'))
    assert rows == [('run', '0.250'), ('run (2)', '0.750')]
    assert names == ['run', 'run (2)']


def test_report_without_a_baseline_explains_how_to_give_one(report, digits, tmp_path):
    out = write(report.parent / 'cbam', tmp_path / 'deep' / 'report.html', data_root=str(digits))
    assert 'no baseline was given; add --against' in out.read_text(encoding='utf-8')


@pytest.mark.skipif(not CHROMIUM, reason='Chromium is not installed')
def test_chromium_shows_the_report_without_an_error(report, tmp_path):
    flags = ('--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}')
    shot = tmp_path / 'shot.png'
    done = subprocess.run(
        [CHROMIUM, *flags, '--enable-logging=stderr', f'--screenshot={shot}', report.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'CONSOLE' not in done.stderr
    assert shot.stat().st_size > 10_000
