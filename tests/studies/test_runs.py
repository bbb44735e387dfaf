"""Runs of studies: their work_dirs, records, signals, progress and repetitions."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.spinner import Spinner

from cbam_det.studies import runs
from cbam_det.studies.processes import LastLine
from cbam_det.studies.records import check_records, read_record
from cbam_det.studies.runs import _commit, _losses, repeat, run
from cbam_det.studies.study import command, gates_path, read_study
from cbam_det.studies.verdicts import first_score, values
from cbam_det.utils.errors import InputError
from cbam_det.utils.exits import SIGNALS, Stopped
from cbam_det.utils.options import parse_options
from cbam_det.utils.records import scored

from ..conftest import QUICK
from ..study_records import change_record, drop_record
from .small_study import SMALL


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Tools that only write the files of a training and a test; yields their calls.

    The fingerprint of the data is their folder.
    """
    recorded_calls = []
    monkeypatch.setattr(
        'cbam_det.studies.runs.data_digits',
        lambda study, row, seed, root: dict(train=str(root)),
    )

    def call(name, config, positional, options, folder, gpus, lock) -> int:
        recorded_calls.append((name, [*positional, *options]))
        if name == 'train' and not (folder / 'last_checkpoint').is_file():
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
            torch.save(dict(state_dict={'weight': torch.ones(1)}), folder / 'epoch_1.pth')
            log = folder / 'now' / 'vis_data' / 'scalars.json'
            log.parent.mkdir(parents=True)
            lines = [dict(step=n, epoch=1, loss=n, time=0.5) for n in (10, 20)]
            log.write_text(''.join(f'{json.dumps(line)}\n' for line in lines) + '{"step": 3')
        (folder / '20261122').mkdir(exist_ok=True)
        (folder / '20261122' / '20261122.json').write_text('{"coco/bbox_mAP": 0.4}')
        return 100

    monkeypatch.setattr('cbam_det.studies.runs.call_tool', call)
    return recorded_calls


def test_progress_is_the_last_progress_line_of_the_log(tmp_path):
    def rendered(start: int = 0, width: int = 999) -> str:
        console = Console(width=width, file=io.StringIO())
        console.print(Spinner('dots', LastLine(log, start)))  # as rich's Status does
        return console.file.getvalue()[2:].removesuffix('\n').rstrip(' ')

    log = tmp_path / 'train.log'
    log.write_text('2026/01/01 - mmengine - INFO - [config] of the model\n')
    assert rendered() == f'starting, {log}'
    epoch = 'Epoch(train) [2][ 50/250]  lr: 8.6e-04  eta: {}  time: 0.2  loss: 1.5'
    lines = [epoch.format('1 day, 0:03:11'), epoch.format('0:03:00'), 'Saving checkpoint']
    with log.open('a') as stream:
        for line in lines:
            stream.write(f'2026/01/01 00:00:00 - mmengine - INFO - {line}\n')
            stream.write('x' * 30_000 + '\n')
        stream.write('2026/01/01 00:00:00 - mmengine - INFO - Epoch(tr')
    last = f'Epoch(train) [2][ 50/250] lr: 8.6e-04 eta: 0:03:00, {log}'
    assert rendered() == last
    assert rendered(width=60) == f'{last[:57]}\u2026'  # else rich erases other lines
    assert rendered(start=log.stat().st_size) == f'starting, {log}'
    log.unlink()
    assert rendered() == f'starting, {log}'


def test_a_run_without_anything_to_score_has_no_first_score(small):
    study = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    scores = [
        first_score(study, study.rows['none'], dict(metrics={'coco/bbox_mAP': value}))
        for value in (0.3721, 0, None)
    ]
    assert scores == ['AP 37.21', 'AP 0.00', 'no AP']


def test_a_work_dir_belongs_to_one_run(small, calls, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    row, results, work = small.rows['none'], tmp_path / 'results', tmp_path / 'work'
    record = run(small, row, 0, results, work)
    # The incomplete last line of the log is ignored.
    assert record['train_seconds'] == 10 and record['loss'] == {'1': 15}
    folder = work / 'faster_rcnn_r50_digits-0'
    drop_record(results, small, row, 0)
    message = f"{folder} belongs to another run .data .* 'None'}}, not .* 'elsewhere'}}.; remove it"
    with pytest.raises(InputError, match=message):
        run(small, row, 0, results, work, data_root='elsewhere')
    identity = json.loads((folder / 'run.json').read_text())
    (folder / 'run.json').write_text(json.dumps(identity | dict(config_hash='another')))
    message = rf'another run \(config_hash another, not {identity["config_hash"]}\); remove it, or'
    with pytest.raises(InputError, match=message):
        run(small, row, 0, results, work)
    with (folder / 'run.json').open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match='another command is using'):
            run(small, row, 0, results, work)
    assert read_record(results, small, row, 0) is None


def test_same_data_in_another_folder_continue_a_run(small, calls, monkeypatch, tmp_path):
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: dict(train='a'))
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    run(*arguments)
    path = tmp_path / 'work' / 'faster_rcnn_r50_digits-0' / 'run.json'
    for data_root in (None, 'dg', 'dg/'):
        older = json.loads(path.read_text()) | dict(data_root=data_root)
        path.write_text(json.dumps(older))
        drop_record(arguments[3], *arguments[:3])
        assert run(*arguments, data_root='dg')['data'] == dict(train='a')


def test_work_dir_in_which_nothing_was_trained_is_taken_over_and_a_damaged_one_is_reported(
    small, calls, tmp_path
):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    folder = tmp_path / 'work' / 'faster_rcnn_r50_digits-0'
    folder.mkdir(parents=True)
    path = folder / 'run.json'
    path.write_text('{"config_hash": "wrong", "commit": "of then"}')
    run(*arguments)
    identity = path.read_text()
    assert json.loads(identity)['config_hash'] not in ('wrong', '') and 'of then' not in identity
    drop_record(arguments[3], *arguments[:3])
    for text in (identity[:20], '[]', '3', '"x"', '\xe4'):
        path.write_text(text, encoding='latin-1')
        message = f'^{path} is damaged, .*; remove {folder} to train again, or give another folder'
        with pytest.raises(InputError, match=message):
            run(*arguments)
    shutil.rmtree(folder)
    folder.touch()
    message = rf'^{folder} cannot be used for this run \(File exists\); remove what is in its place'
    with pytest.raises(InputError, match=message):
        run(*arguments)


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_signal_to_a_run_is_forwarded_to_the_training_and_its_end_is_awaited(
    name, small, monkeypatch, tmp_path
):
    program = tmp_path / 'python'
    program.write_text(
        '#!/bin/bash\n'
        f'trap "touch {tmp_path}/saved; exit $((128 + $(kill -l {name})))" {name}\n'
        f'kill -s {name} $PPID; while true; do sleep 0.1; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(program))
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: {})
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match=f'stopped by {name}; the same command continues') as stop:
        run(small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    assert stop.value.status == 128 + signal.Signals[name]
    assert (tmp_path / 'saved').exists()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_repetition_runs_again_each_time(small, calls, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    run(*arguments)
    for given, words in ((dict(data_root='x'), 'other data'), (dict(gpus=2), '1 processes; give')):
        with pytest.raises(InputError, match=f'the record was made with {words}'):
            repeat(*arguments, **given)
    for _ in range(2):
        assert repeat(*arguments) == {}
        with pytest.raises(InputError, match='exists; remove it to repeat'):
            repeat(*arguments)
        shutil.rmtree(next(arguments[4].glob('repeat/*/record')))  # as if interrupted before it
    assert [name for name, _ in calls] == ['train', 'test'] * 3
    change_record(arguments[3], *arguments[:3], metrics={'coco/bbox_mAP': 0.5})
    assert repeat(*arguments) == {'test coco/bbox_mAP': (0.5, 0.4)}


def test_record_has_the_commit_of_its_training_and_no_nan(small, calls, monkeypatch, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    monkeypatch.setattr('cbam_det.studies.runs._commit', lambda: 'first')
    run(*arguments)
    drop_record(arguments[3], *arguments[:3])
    log = tmp_path / 'work' / 'faster_rcnn_r50_digits-0' / '20261123' / '20261123.json'
    log.parent.mkdir()
    log.write_text('{"coco/bbox_mAP": 0.4, "coco/zero_precision": NaN}')
    monkeypatch.setattr('cbam_det.studies.runs._commit', lambda: 'second')
    record = run(*arguments)
    assert record['commit'] == 'first'
    assert record['metrics'] == {'coco/bbox_mAP': 0.4, 'coco/zero_precision': None}


def test_run_that_could_not_be_compared_with_the_records_is_refused_before_it_trains(
    small, calls, tmp_path
):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    none, cbam, _ = small.rows.values()
    folders = (tmp_path / 'results', tmp_path / 'work')
    run(small, cbam, 0, *folders, data_root='data')
    for row, seed in ((cbam, 1), (none, 0)):
        with pytest.raises(InputError, match=r"run with other data .*'other'.*'data'.*; read"):
            run(small, row, seed, *folders, data_root='other')
        with pytest.raises(InputError, match=r'number of processes \(4\) .*; give --gpus 1, or'):
            run(small, row, seed, *folders, gpus=4, data_root='data')
    assert len(calls) == 2
    run(small, none, 0, *folders, data_root='data')
    check_records(small, folders[0])


def test_interrupted_run_does_not_continue_with_other_data(small, calls, monkeypatch, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    run(*arguments)
    drop_record(arguments[3], *arguments[:3])
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: dict(train='edited'))
    with pytest.raises(InputError, match=r'belongs to another run .*edited.*; remove'):
        run(*arguments)
    assert len(calls) == 2
    path = tmp_path / 'work' / 'faster_rcnn_r50_digits-0' / 'run.json'
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != 'data'}
    path.write_text(json.dumps(older))
    assert run(*arguments)['data'] == dict(train='edited')


def test_commit_is_empty_without_git_and_for_an_installed_package(monkeypatch):
    monkeypatch.setattr(runs, 'INSTALLED', True)
    assert _commit() == ''
    monkeypatch.setattr(runs, 'INSTALLED', False)
    monkeypatch.setenv('PATH', '')
    assert _commit() == ''


def test_tools_read_the_options_of_a_run_as_they_are_in_its_study(small, calls, tmp_path):
    overrides = {'a,b': None, 'file': '/a/cells,v2/val.json', 'mixed': [None, 1, 'x y'], 'lr': 1e-5}
    row = replace(small.rows['none'], overrides=overrides)
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'}, rows={'none': row})
    with mock.patch('cbam_det.studies.runs.config_hash', return_value=''):
        run(small, row, 0, tmp_path / 'results', tmp_path / 'work')
    pairs = calls[0][1][calls[0][1].index('--cfg-options') + 1 :]
    assert parse_options(pairs) == {**overrides, 'randomness.seed': 0}


def test_metrics_that_are_lists_are_left_out_of_a_record(small, calls, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    arguments = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    folder = tmp_path / 'work' / 'faster_rcnn_r50_digits-0'
    for name, line in (('vis_data/scalars', '"step": 1, '), ('20261123', '')):
        log = folder / '20261123' / f'{name}.json'
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f'{{{line}"coco/bbox_mAP": 0.4, "single-label/recall": [0.1, 0.9]}}')
    record = run(*arguments)
    assert record['metrics'] == record['validation']['1'] == {'coco/bbox_mAP': 0.4}
    assert read_record(arguments[3], *arguments[:3]) == record


@pytest.mark.parametrize(
    ('logged', 'message'),
    [
        (
            {},
            r'no coco/bbox_mAP; .*\(nothing\), or, if nothing is detected, train longer or lower ',
        ),
        (
            {'coco/AP': 0.1},
            r'give under metrics in the study what it logged \(coco/AP\), or',
        ),
    ],
)
def test_missing_metrics_are_explained(logged, message, small, calls, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    log = tmp_path / 'work' / 'faster_rcnn_r50_digits-0' / '20261123' / '20261123.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(logged))
    with pytest.raises(InputError, match=f'{message}.*test.log'):
        run(small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')


def test_losses_are_averaged_by_epoch_or_by_twentieth_of_the_steps():
    by_epoch = [dict(step=step, epoch=1 + step // 3, loss=step) for step in range(1, 6)]
    assert _losses([*by_epoch, dict(step=5, epoch=2, loss=9)]) == {1: 1.5, 2: pytest.approx(16 / 3)}
    by_step = [dict(step=step, loss=step) for step in range(1, 101)]
    losses = _losses(by_step)
    assert list(losses) == list(range(5, 101, 5)) and losses[5] == 3 and losses[100] == 98


def test_damaged_only_checkpoint_of_a_run_is_reported_with_what_to_remove(
    small, monkeypatch, tmp_path
):
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: {})
    monkeypatch.setattr('cbam_det.studies.runs.call_tool', None)
    folder = tmp_path / 'work/faster_rcnn_r50_digits-0'
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    (folder / 'epoch_1.pth').write_bytes(b'damaged')
    message = f'epoch_1.pth [^;]*; remove {folder} to train this run again$'
    with pytest.raises(InputError, match=message):
        run(small, small.rows['none'], 0, tmp_path, tmp_path / 'work')


@pytest.fixture
def quick(tmp_path, small, digits):
    """A study with a run of seconds, the folders, and the arguments that run one row and seed."""
    path = tmp_path / 'studies' / 'small.yaml'
    options = {**parse_options(QUICK), 'train_cfg.max_epochs': 1}
    options.pop('randomness.seed')
    path.write_text(f'{SMALL}\noptions: {json.dumps(options)}\n')
    common = ('--studies', path.parent, '--results', tmp_path / 'results')
    arguments = ('run', 'small', '--row', 'CBAM', '--seed', 1, '--data-root', digits)
    return read_study(path), common, (*arguments, '--work-dirs', tmp_path / 'work')


def test_a_run_is_recorded_and_not_run_again(quick, tool, digits, tmp_path, capsys):
    study, common, arguments = quick
    assert tool(*common, *arguments) == 0, capsys.readouterr().err
    first = read_record(tmp_path / 'results', study, study.rows['CBAM'], 1)
    assert first['seed'] == 1 and first['environment']['torch']
    after = ['--data-root', str(digits), '--work-dirs', str(tmp_path / 'work')]
    assert first['command'] == command(study, study.rows['CBAM'], 1, 0, [*map(str, common)], after)
    assert first['memory_mib'] > 100 and first['train_seconds'] > 0
    train, val = (
        hashlib.sha256((digits / f'annotations/instances_{split}2017.json').read_bytes())
        for split in ('train', 'val')
    )
    train, val = train.hexdigest()[:12], val.hexdigest()[:12]
    assert first['data'] == dict(train=train, val=val, test=val)
    log = [
        json.loads(line)
        for path in tmp_path.glob('work/*/*/vis_data/scalars.json')
        for line in path.open()
    ]
    mean = np.mean([line['loss'] for line in log if 'loss' in line])
    assert first['loss'] == {'1': pytest.approx(mean, abs=1e-5)}
    validations = [
        {key: value for key, value in line.items() if '/' in key}
        for line in log
        if 'loss' not in line and line['step']
    ]
    assert validations and first['validation'] == {'1': scored(validations[0])}
    assert values(study, study.rows['CBAM'], tmp_path / 'results', 'AP') == {
        1: 100 * first['metrics']['coco/bbox_mAP']
    }
    assert 'config:' not in capsys.readouterr().err
    assert tool(*common, *arguments) == 0
    assert capsys.readouterr().out.startswith('small: all requested runs are recorded in ')
    assert tool(*common, 'commands', 'small') == 0
    assert len(capsys.readouterr().out.splitlines()) == 8  # of 9 runs
    gates = ('gates', 'small', '--data-root', digits, '--count', 2)
    assert tool(*common, *gates) == 2
    message = capsys.readouterr().err
    assert 'no checkpoint with the recorded weights in work_dirs/' in message
    assert message.endswith('; give the folder of the runs with --work-dirs\n')
    assert tool(*common, *gates, '--work-dirs', tmp_path / 'work') == 0
    record = json.loads(gates_path(tmp_path / 'results', study).read_text())
    assert list(record['rows']) == ['CBAM'] and record['images'] == 2
    assert record['command'].endswith(f' gates small --count 2 {shlex.join(after)}')
    (low, middle, high), spatial = record['rows']['CBAM'].values()
    assert 0.9 < low <= middle <= high < 1.1  # three steps from the identity
    assert record['runs']['CBAM']['channel'] == {'1': [low, middle, high]}
    output = capsys.readouterr().out
    assert f'{low:.2f} to {high:.2f} | {spatial[0]:.2f} to {spatial[2]:.2f} |' in output
    assert 'as means over the runs, on 2 images of `val_dataloader`' in output


@pytest.mark.slow
def test_repetition_is_equal_or_its_differences_are_printed(quick, tool, tmp_path, capsys):
    study, common, arguments = quick
    repeat_arguments = ('repeat', *arguments[1:])
    assert tool(*common, *arguments) == 0
    assert tool(*common, *repeat_arguments) == 0
    assert 'all numbers are the same' in capsys.readouterr().out
    assert tool(*common, *repeat_arguments) == 2
    assert 'exists; remove it' in capsys.readouterr().err
    shutil.rmtree(tmp_path / 'work')
    record_place = (tmp_path / 'results', study, study.rows['CBAM'], 1)
    losses = read_record(*record_place)['loss']
    loss = losses['1']
    change_record(*record_place, loss=losses | {'1': 7.5})
    assert tool(*common, *repeat_arguments) == 0
    assert f'differs: loss of epoch 1 7.5 -> {loss}' in capsys.readouterr().out
