"""`tools/experiment.py`: its arguments, lists, plans and measured costs."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cbam_det.models.costs import count_costs
from cbam_det.studies import measures
from cbam_det.studies import plan as plan_module
from cbam_det.studies.measures import costs
from cbam_det.studies.plan import plan, plan_table
from cbam_det.studies.records import config_hash
from cbam_det.studies.study import (
    command_here,
    command_of_study,
    cost_path,
    read_study,
)
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS, ROOT
from .small_study import SMALL, record


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('run', 'bccd', '--seed', '99'), 'no seed 99 in these rows; choose from 0, 1'),
        (('commands', 'digits', '--gpus', '8'), 'digits is made for --gpus 1'),
        (('repeat', 'bccd', '--row', 'none'), 'select them with --row and --seed'),
        (('--results', 'nowhere', 'table', 'bccd'), 'there is no folder nowhere with records'),
        (('--studies', 'nowhere', 'list'), 'nowhere is not a folder with YAML files of studies'),
        (('--studies', __file__, 'list'), 'test_experiment_tool.py is not a folder with YAML'),
    ],
)
def test_wrong_argument_is_reported_before_anything_runs(arguments, message, tool, capsys):
    with contextlib.suppress(SystemExit):  # argparse's
        assert tool(*arguments) == 2
    assert message in capsys.readouterr().err


def test_commands_keep_the_options_and_list_a_shared_run_once(tool, tmp_path, capsys):
    options = ('--data-root', 'a b', '--work-dirs', 'runs')
    assert tool('--results', tmp_path, 'commands', 'table2', 'table3', *options) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('python')]
    assert len(lines) == 6 + 4 - 2
    head, tail = f'python tools/experiment.py --results {tmp_path} run table2', 'runs'
    assert lines[0].startswith(head) and lines[0].endswith(tail)
    assert "--gpus 8 --data-root 'a b'" in lines[0]


def test_command_of_a_message_keeps_the_folders_of_the_command_line(small, monkeypatch):
    given = ['tools/experiment.py', '--results', '/a b', 'gates', 'small', '--work-dirs=runs']
    monkeypatch.setattr(sys, 'argv', given)
    said = "python tools/experiment.py --results '/a b'"
    assert command_of_study('cost', small) == f'{said} cost small'
    repeated = command_here(small, small.rows['none'], 0, name='repeat')
    assert repeated == f'{said} repeat small --row none --seed 0 --work-dirs runs'


def test_config_of_a_row_is_looked_up_from_the_study_s_folder_first(small, monkeypatch, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {str(CONFIGS / "faster_rcnn_r50_digits.py")!r}')
    path = tmp_path / 'studies' / 'small.yaml'
    path.write_text(SMALL.replace('config: faster_rcnn_r50_digits,', 'config: ../mine.py,'))
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    row = read_study(path).rows['none']
    assert config_hash(small, row, 0) == config_hash(small, small.rows['none'], 0)
    assert read_study(path).rows['CBAM'].config == 'faster_rcnn_r50_cbam_digits'


@pytest.mark.parametrize('name', ['list', 'commands'])
def test_missing_config_is_one_line_with_its_study_and_row(name, tool, tmp_path, capsys):
    path = tmp_path / 'mine.yaml'
    path.write_text(SMALL.replace('faster_rcnn_r50_cbam_digits,', 'mine/absent.py,'))
    assert tool('--studies', tmp_path, '--results', tmp_path, name, 'mine') == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {path}, row 'CBAM': not found relative to this file, and there is no config"
    )
    assert error.count('\n') == 1


@pytest.mark.parametrize('command', ['run', 'cost', 'gates', 'focus'])
def test_results_that_cannot_be_written_are_reported_before_the_work(
    command, small, tool, monkeypatch, tmp_path, capsys
):
    for name in ('run_requested', 'measures'):
        monkeypatch.setattr(f'cbam_det.studies.experiment.{name}', None)
    file = tmp_path / 'file'
    file.write_text('')
    if command in ('run', 'cost'):  # the others ask for a folder
        assert tool('--studies', tmp_path / 'studies', '--results', file, command, 'small') == 2
        error = f'--results {file} cannot be written ({file}: Not a directory); give a folder that'
        assert error in capsys.readouterr().err
    taken = tmp_path / 'results/small.jsonl'
    taken.mkdir(parents=True)
    folders = ('--studies', tmp_path / 'studies', '--results', taken.parent)
    assert tool(*folders, command, 'small') == 2
    assert f'cannot be written ({taken}: Is a directory); give' in capsys.readouterr().err


def test_recorded_commands_keep_the_folders_of_the_command_line(small, monkeypatch, tmp_path):
    given = ['tools/experiment.py', '--results', '/r', 'gates', 'small', '--work-dirs', 'w']
    monkeypatch.setattr(sys, 'argv', given)
    monkeypatch.setattr(measures, 'detectors', lambda *_, **__: {})
    monkeypatch.setattr(measures, 'write_record', lambda _, command, __: command)
    start = 'python tools/experiment.py --results /r'
    assert measures.costs(small, tmp_path, 3, 'cpu') == f'{start} cost small --rounds 3'
    for row in ('none', 'CBAM'):
        record(tmp_path, small, row, [0.4])
    monkeypatch.setattr(measures, '_has_weights', lambda *_: True)
    monkeypatch.setattr(measures, '_weights', lambda *_: {'channel': np.ones(3)})
    monkeypatch.setattr(measures, 'Predictor', lambda *_: None)
    monkeypatch.setattr('cbam_det.visualization.focus.focus', lambda *_: {})
    explainer = SimpleNamespace(predictor=SimpleNamespace(cfg=None))
    monkeypatch.setattr('cbam_det.visualization.gradcam.Explainer', lambda _: explainer)
    commands = []
    monkeypatch.setattr(measures, 'write_record', lambda _, command, __: commands.append(command))
    measures.gate_weights(small, tmp_path, tmp_path, 2)
    measures.heat_inside(small, tmp_path, tmp_path, 2, 0.3)
    assert commands == [
        f'{start} gates small --count 2 --work-dirs w',
        f'{start} focus small --count 2 --score 0.3 --work-dirs w',
    ]


def test_measurements_without_records_give_the_command_that_makes_them(small, tmp_path):
    run = r'; make records: python tools/experiment\.py run small$'
    with pytest.raises(InputError, match=f'no run of small with CBAM is recorded in .*{run}'):
        measures.gate_weights(small, tmp_path, tmp_path, 2)
    with pytest.raises(InputError, match=f'has no detector of small and its baseline.*{run}'):
        measures.heat_inside(small, tmp_path, tmp_path, 2, 0.3)
    alone = replace(small, rows={'none': small.rows['none']})
    with pytest.raises(InputError, match='no row of small has CBAM'):
        measures.gate_weights(alone, tmp_path, tmp_path, 2)
    with pytest.raises(InputError, match='no detector of small has a baseline'):
        measures.heat_inside(alone, tmp_path, tmp_path, 2, 0.3)


@pytest.mark.slow
def test_libraries_print_no_notes_of_their_own():
    code = """
import torch
from mmengine.config import Config
from cbam_det.utils.config import enter_scope, registered_class
from cbam_det.utils.time_and_memory import memory
from mmengine.registry import DATASETS
enter_scope(Config(dict(default_scope='mmpretrain')))
assert registered_class(DATASETS, 'CustomDataset')
memory(lambda forward_alone=False: torch.ones(10), 'cpu')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert not any(word in done.stdout + done.stderr for word in ('OneDL', 'USDT', 'ERROR'))


@pytest.mark.slow
def test_costs_of_all_rows_are_measured_in_one_run_and_recorded(small, monkeypatch, tmp_path):
    bfloat16 = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}
    rows = {name: replace(small.rows[name], overrides=bfloat16) for name in ('none', 'CBAM')}
    small = replace(small, rows=rows)
    monkeypatch.setattr(sys, 'argv', ['tools/experiment.py'])
    record = costs(small, tmp_path, rounds=2, device='cpu')
    assert record == json.loads(cost_path(tmp_path, small).read_text())
    assert list(record['rows']) == ['none', 'CBAM'] and record['batch'] == 4
    assert all(0 < row['train_ms'][0] < 60_000 for row in record['rows'].values())
    assert record['command'] == 'python tools/experiment.py cost small --rounds 2'


def test_plan_counts_steps_hours_and_memory(tool, tmp_path, capsys):
    study = read_study(ROOT / 'experiments' / 'table7.yaml')
    ssd = plan(study, study.rows['VGG16 SSD'], teraflops=8)
    assert ssd.steps == 24 * math.ceil(16551 * 10 / 64)  # RepeatDataset, batches of 8
    assert ssd.images == 64 * ssd.steps
    cost = count_costs(read_config('ssd300_vgg16_voc'), training=True)
    assert ssd.multiply_adds == cost.multiply_adds
    assert ssd.hours == pytest.approx(6 * ssd.multiply_adds * ssd.images / 64e12 / 3600)
    study = read_study(ROOT / 'experiments' / 'table6.yaml')
    faster_rcnn = plan(study, study.rows['ResNet50'], teraflops=8)
    assert faster_rcnn.steps == faster_rcnn.images == 490_000  # max_iters, one image each
    assert tool('run', 'table6', '--gpus', 8) == 2
    assert 'table6 is made for --gpus 1, not 8, which would change' in capsys.readouterr().err
    assert tool('plan', 'table7', '--gpus', 16, '--out', tmp_path / 'plan.json') == 0
    output = capsys.readouterr().out
    record = json.loads((tmp_path / 'plan.json').read_text())
    rows = record['studies']['table7']['rows']
    assert len(rows) == 8 and rows['VGG16 SSD']['steps'] == 24 * math.ceil(16551 * 10 / 64)
    hours = sum(row['runs'] * row['gpus'] * row['hours'] for row in rows.values()) / 16
    assert f'about {hours:.0f} hours for all runs on 16 GPUs' in output
    assert plan_table(record) in output
    assert tool('plan', 'table1') == 2
    assert 'table1 cannot be planned: it has classifiers alone' in capsys.readouterr().err


def test_plan_of_a_chain_leaves_out_its_classifiers(tool, monkeypatch, capsys):
    monkeypatch.setattr(
        plan_module, 'count_costs', lambda *_, **__: SimpleNamespace(multiply_adds=1)
    )
    monkeypatch.setattr(plan_module, 'activation_bytes', lambda _: 1)
    assert tool('plan', 'table6_chain') == 0
    output, error = capsys.readouterr()
    rows = [line.split(' | ')[0] for line in output.splitlines() if line.startswith('| ')]
    assert rows[2:] == ['| ResNet50', '| ResNet50 + CBAM']
    assert 'table6_chain: the classifiers are left out' in error


def test_costs_on_a_gpu_need_one_and_are_recorded_with_the_option(
    tool, monkeypatch, tmp_path, capsys
):
    results = ('--results', tmp_path)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert tool(*results, 'cost', 'bccd', '--device', 'cuda') == 2
    assert '--device cuda: torch finds no GPU; leave it out' in capsys.readouterr().err
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('cbam_det.studies.measures.detectors', lambda *_, **__: {})
    monkeypatch.setattr('cbam_det.studies.measures.write_record', lambda _, command, __: command)
    study = read_study(ROOT / 'experiments' / 'bccd.yaml')
    for device, end in (('cuda', '--rounds 3 --device cuda'), ('cpu', '--rounds 3')):
        said = f'python tools/experiment.py --results {tmp_path} cost bccd'
        assert costs(study, tmp_path, 3, device) == f'{said} {end}'


def test_tool_lists_studies_and_reports_missing_studies_and_rows(tool, tmp_path, capsys):
    assert tool('list', 'table6') == 0
    assert 'ResNet101 + CBAM' in capsys.readouterr().out
    keys = 'title: t\nmetrics: {AP: coco/bbox_mAP}\nseeds: [0]\n'
    (tmp_path / 'own.yaml').write_text(keys + 'rows: {"a [se]": {config: ssd300_vgg16}}')
    assert tool('--studies', tmp_path, 'list', 'own') == 0
    assert 'a [se]' in capsys.readouterr().out  # no markup
    assert tool('table', 'table9') == 2
    assert "no study 'table9'" in capsys.readouterr().err
    assert tool('run', 'table6', '--row', 'ResNet9') == 2
    assert "no row 'ResNet9'; choose from ResNet50" in capsys.readouterr().err
