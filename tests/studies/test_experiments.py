"""The ledger: its files, its runs, its records and what its tables say."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import math
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.spinner import Spinner
from scipy import stats

from cbam_det.datasets.validation.dataset import fingerprint
from cbam_det.models.build import build_model
from cbam_det.models.costs import count
from cbam_det.studies.figure import study_figure
from cbam_det.studies.measures import costs
from cbam_det.studies.plan import plan
from cbam_det.studies.processes import LastLine
from cbam_det.studies.records import (
    check_records,
    config_hash,
    orphans,
    read_record,
    records_path,
    stale,
)
from cbam_det.studies.runs import _losses, repeat, run
from cbam_det.studies.study import (
    Row,
    Study,
    command,
    cost_path,
    gates_path,
    options,
    read_study,
    run_name,
)
from cbam_det.studies.tables import plan_table
from cbam_det.studies.verdicts import compare, difference, table, values
from cbam_det.utils.config import find_config, override, read_config
from cbam_det.utils.errors import SIGNALS, InputError, Stopped
from cbam_det.utils.run_config import DataSet

from ..conftest import QUICK, ROOT, in_process
from ..ledger import change_record, drop_record, put_record

LEDGER = sorted((ROOT / 'experiments').glob('*.yaml'))
SMALL = """
title: small
metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}
seeds: [0, 1, 2]
rows:
  none: {config: faster_rcnn_r50_digits, paper: {AP: 27.0}}
  CBAM: {config: faster_rcnn_r50_cbam_digits, against: none, paper: {AP: 28.1}}
  paper start:
    config: faster_rcnn_r50_cbam_digits
    against: none
    overrides: {model.backbone.plugins.0.cfg.start: paper}
"""


@pytest.fixture
def small(tmp_path) -> Study:
    path = tmp_path / 'ledger' / 'small.yaml'
    path.parent.mkdir()
    path.write_text(SMALL)
    return read_study(path)


WHERE = dict(hardware='a CPU (2 cores)', threads=1, torch='2.12.1')


def record(results: Path, study: Study, row: str, aps: list[float]) -> None:
    for seed, ap in enumerate(aps):
        metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': 2 * ap}
        validation = {4: {'coco/bbox_mAP': ap / 2}, 8: {'coco/bbox_mAP': ap}}
        digest = config_hash(study, study.rows[row], seed)
        given = dict(metrics=metrics, validation=validation, environment=WHERE, config_hash=digest)
        given |= dict(train_seconds=120 + seed, commit='0123456789')
        put_record(results, study, study.rows[row], seed, **given)


@pytest.mark.parametrize('path', LEDGER, ids=lambda path: path.stem)
def test_every_row_of_the_ledger_has_a_config_that_its_overrides_fit(path):
    study = read_study(path)
    for row in study.rows.values():
        assert Path(find_config(row.config)).is_file()
        assert row.seeds and set(row.paper) <= set(study.metrics_of(row))
        cfg = override(read_config(row.config), options(study, row, 7))
        assert cfg.randomness.seed == 7
        attention = [key for key in build_model(cfg).state_dict() if '_gate.' in key]
        assert attention or row.against is None


def test_the_ledger_has_every_row_of_the_paper_s_tables():
    rows = {path.stem: len(read_study(path).rows) for path in LEDGER}
    wanted = dict(table1=4, table2=6, table3=4, table4=24, table5=6, table6=4, table7=8)
    assert {name: rows[name] for name in wanted} == wanted
    paper = read_study(ROOT / 'experiments' / 'table6.yaml').rows
    assert paper['ResNet101 + CBAM'].paper == dict(AP=30.8, AP50=50.5, AP75=32.6)


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


def test_records_of_another_config_are_found(small, tmp_path):
    row = small.rows['CBAM']
    for seed, digest in enumerate([config_hash(small, row, 0), 'another']):
        put_record(tmp_path, small, row, seed, config_hash=digest)
    path = records_path(tmp_path, small)
    assert stale(small, tmp_path) == [f'{path}, faster_rcnn_r50_cbam_digits-1']
    with path.open('a') as stream:
        stream.write('{"config_hash": \n')
    with pytest.raises(InputError, match=f'{path.name}, line 3 is no record .*; remove the line'):
        stale(small, tmp_path)


@pytest.mark.skipif(mmdet.__version__ != '3.5.1', reason="the records' configs have its bases")
@pytest.mark.parametrize('path', LEDGER, ids=lambda path: path.stem)
def test_records_are_of_the_configs_as_they_are(path):
    for folder in ('experiments', 'repeats'):
        assert stale(read_study(path), ROOT / 'results' / folder) == []


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """Tools that only write what a training and a test leave, and data known by their folder; the
    calls as (name, arguments).
    """
    calls = []
    monkeypatch.setattr(
        'cbam_det.studies.runs.data_digits',
        lambda study, row, seed, root: dict(train=str(root)),
    )

    def call(name, config, first, last, folder, gpus, lock) -> int:
        calls.append((name, [*first, *last]))
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
    return calls


def test_the_progress_shown_is_the_last_of_the_log(tmp_path):
    def shown(begin: int = 0, width: int = 999) -> str:
        console = Console(width=width, file=io.StringIO())
        console.print(Spinner('dots', LastLine(log, begin)))  # as rich's Status does
        return console.file.getvalue()[2:].removesuffix('\n').rstrip(' ')

    log = tmp_path / 'train.log'
    log.write_text('2026/01/01 - mmengine - INFO - [config] of the model\n')
    assert shown() == f'begins, {log}'
    epoch = 'Epoch(train) [2][ 50/250]  lr: 8.6e-04  eta: {}  time: 0.2  loss: 1.5'
    lines = [epoch.format('1 day, 0:03:11'), epoch.format('0:03:00'), 'Saving checkpoint']
    with log.open('a') as stream:
        for line in lines:
            stream.write(f'2026/01/01 00:00:00 - mmengine - INFO - {line}\n')
            stream.write('x' * 30_000 + '\n')
        stream.write('2026/01/01 00:00:00 - mmengine - INFO - Epoch(tr')
    last = f'Epoch(train) [2][ 50/250] lr: 8.6e-04 eta: 0:03:00, {log}'
    assert shown() == last
    assert shown(width=60) == f'{last[:57]}\u2026'  # in one line, or what is above would be erased
    assert shown(begin=log.stat().st_size) == f'begins, {log}'
    log.unlink()
    assert shown() == f'begins, {log}'


def test_a_work_dir_is_one_run_s_alone(small, stubbed, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    row, results, work = small.rows['none'], tmp_path / 'results', tmp_path / 'work'
    made = run(small, row, 0, results, work)
    assert made['train_seconds'] == 10 and made['loss'] == {'1': 15}  # past the line that is cut
    folder = work / 'faster_rcnn_r50_digits-0'
    drop_record(results, small, row, 0)
    with pytest.raises(InputError, match='is of another run'):
        run(small, row, 0, results, work, data_root='elsewhere')
    (folder / 'run.json').write_text('{"config_hash": "another"}')
    with pytest.raises(InputError, match='is of another run'):
        run(small, row, 0, results, work)
    with (folder / 'run.json').open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match='another command is at work'):
            run(small, row, 0, results, work)
    assert read_record(results, small, row, 0) is None


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_signal_to_a_run_is_the_training_s_whose_end_is_waited_for(
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
    with pytest.raises(Stopped, match=f'stopped by {name}; the same command goes on') as stop:
        run(small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    assert stop.value.status == 128 + signal.Signals[name]
    assert (tmp_path / 'saved').exists()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_repetition_runs_each_time(small, stubbed, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    what = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    run(*what)
    with pytest.raises(InputError, match='the record is of other data'):
        repeat(*what, data_root='elsewhere')
    folder = tmp_path / 'work' / 'repeat' / 'faster_rcnn_r50_digits-0'
    for _ in range(2):
        assert repeat(*what) == {}
        with pytest.raises(InputError, match='is there; remove it'):
            repeat(*what)
        shutil.rmtree(folder / 'record')  # as where it was interrupted before the end
    assert [name for name, _ in stubbed] == ['train', 'test'] * 3
    change_record(*what[3:4], *what[:3], metrics={'coco/bbox_mAP': 0.5})
    assert repeat(*what) == {'test coco/bbox_mAP': (0.5, 0.4)}


def test_record_keeps_the_commit_of_its_training_and_no_nan(small, stubbed, monkeypatch, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    what = (small, small.rows['none'], 0, tmp_path / 'results', tmp_path / 'work')
    monkeypatch.setattr('cbam_det.studies.runs._commit', lambda: 'first')
    run(*what)
    drop_record(*what[3:4], *what[:3])
    log = tmp_path / 'work' / 'faster_rcnn_r50_digits-0' / '20261123' / '20261123.json'
    log.parent.mkdir()
    log.write_text('{"coco/bbox_mAP": 0.4, "coco/zero_precision": NaN}')
    monkeypatch.setattr('cbam_det.studies.runs._commit', lambda: 'second')
    again = run(*what)
    assert again['commit'] == 'first'
    assert again['metrics'] == {'coco/bbox_mAP': 0.4, 'coco/zero_precision': None}


def test_records_of_other_data_than_their_baseline_s_are_refused(small, stubbed, tmp_path):
    small = replace(small, metrics={'AP': 'coco/bbox_mAP'})
    none, cbam, _ = small.rows.values()
    for row, root in ((none, 'one'), (cbam, 'one'), (cbam, 'other')):
        seed = int(root == 'other')
        check_records(small, tmp_path / 'results')
        run(small, row, seed, tmp_path / 'results', tmp_path / 'work', data_root=root)
    with pytest.raises(InputError, match=r"cbam_digits-1 is of other data .*'other'.*'one'"):
        check_records(small, tmp_path / 'results')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('run', 'bccd', '--seed', '99'), 'bccd has no seed 99 there; it has 0, 1'),
        (('commands', 'digits', '--gpus', '8'), 'digits is made for --gpus 1'),
        (('repeat', 'bccd', '--row', 'none'), 'name them by --row and --seed'),
        (('--results', 'nowhere', 'table', 'bccd'), 'no folder of records nowhere'),
        (('--ledger', 'nowhere', 'table', 'bccd'), "no study 'bccd' in nowhere; it has none"),
    ],
)
def test_wrong_argument_is_named_before_anything_runs(arguments, said, tool, capsys):
    with contextlib.suppress(SystemExit):  # argparse's
        assert tool(*arguments) == 2
    assert said in capsys.readouterr().err


def test_commands_keep_the_options_and_name_a_shared_run_once(tool, tmp_path, capsys):
    options = ('--data-root', 'a b', '--work-dirs', 'runs')
    assert tool('--results', tmp_path, 'commands', 'table2', 'table3', *options) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('python')]
    assert len(lines) == 6 + 4 - 2
    head, tail = f'python tools/experiment.py --results {tmp_path} run table2', 'runs'
    assert lines[0].startswith(head) and lines[0].endswith(tail)
    assert "--gpus 8 --data-root 'a b'" in lines[0]


def test_digits_of_data_follow_the_annotations_that_a_list_names(digits, tmp_path):
    root = shutil.copytree(digits / 'VOCdevkit' / 'VOC2007', tmp_path / 'VOC2007')
    prefix = dict(sub_data_root='VOC2007/')
    dataset = dict(type='XMLDataset', data_root=str(tmp_path), data_prefix=prefix)
    dataset['ann_file'] = 'VOC2007/ImageSets/Main/val.txt'
    before = fingerprint(DataSet.of(dataset))
    lists = [
        (root / f'ImageSets/Main/{split}.txt').read_text().split() for split in ('train', 'val')
    ]
    for names, same in zip(lists, (True, False), strict=True):
        with (root / f'Annotations/{names[0]}.xml').open('a') as file:
            file.write(' ')
        assert (fingerprint(DataSet.of(dataset)) == before) is same
    with pytest.raises(InputError, match=r'none\.txt'):
        fingerprint(DataSet.of(dict(dataset, ann_file='VOC2007/ImageSets/Main/none.txt')))


def test_rows_of_two_tables_that_are_the_same_share_a_run(small, tmp_path):
    none, cbam, paper = small.rows.values()
    names = {run_name(small, row, 0) for row in (none, cbam, paper)}
    assert len(names) == 3 and 'faster_rcnn_r50_cbam_digits-0' in names
    one, other = (read_study(ROOT / 'experiments' / f'table{n}.yaml') for n in (2, 3))
    names = [{run_name(study, row, 0) for row in study.rows.values()} for study in (one, other)]
    assert len(names[0] & names[1]) == 2  # SE, and CBAM
    shared = next(row for row in one.rows.values() if run_name(one, row, 0) in names[1])
    twin = next(row for row in other.rows.values() if run_name(other, row, 0) in names[0])
    put_record(tmp_path, one, shared, 0, metrics={'accuracy/top1': 70.0})
    assert read_record(tmp_path, other, twin, 0)['row'] == shared.name
    assert orphans(other, tmp_path) == orphans(one, tmp_path) == []


def test_hash_follows_the_config_and_nothing_else(small):
    none, cbam, paper = small.rows.values()
    assert config_hash(small, cbam, 0) == config_hash(small, cbam, 0)
    assert (
        len({config_hash(small, row, seed) for row in (none, cbam, paper) for seed in (0, 1)}) == 6
    )


@pytest.mark.parametrize(
    ('key', 'value', 'counts'),
    [
        ('optim_wrapper.optimizer.lr', 0.5, True),
        ('train_dataloader.dataset.ann_file', 'annotations/other.json', True),
        ('test_evaluator.metric', 'proposal', True),
        ('default_hooks.ema.type', 'EMAHook', True),
        ('channels_last', True, True),
        ('train_dataloader.dataset.data_root', 'elsewhere/', False),
        ('test_evaluator.ann_file', 'elsewhere/annotations/instances_val2017.json', False),
        ('default_hooks.logger.interval', 7, False),
        ('default_hooks.attention_audit.saturation_at', 9, False),
        ('default_hooks.checkpoint.max_keep_ckpts', 2, False),
        ('log_level', 'WARNING', False),
    ],
)
def test_hash_counts_what_determines_the_numbers_of_a_run(small, key, value, counts):
    row = small.rows['CBAM']
    other = replace(row, overrides={key: value})
    assert (config_hash(small, row, 0) != config_hash(small, other, 0)) == counts


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ('title: small', 'titel: small', 'titel'),
        ('against: none', 'against: nothing', "against 'nothing', which is no row before it"),
        ('config: faster_rcnn_r50_digits, ', '', "row 'none': it takes the keys"),
        ('rows:', 'rows: [', 'cannot be read as YAML'),
        ('  CBAM:', '  none:', "'none' twice"),
        ('seeds: [0, 1, 2]', 'seeds: 3', 'seeds takes a list of whole numbers, each once; found 3'),
        ('seeds: [0, 1, 2]', 'seeds: [0, 0]', r'seeds takes .*; found \[0, 0\]'),
        ('seeds: [0, 1, 2]', 'rows: []', "'rows' twice"),
        (
            'metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}',
            'metrics: {}',
            'one entry or more',
        ),
        ('seeds:', "gpus: '1'\nseeds:", "gpus takes a whole number; found '1'"),
        ('faster_rcnn_r50_cbam_digits, ', 'faster_rcnn_r50_digits, ', "the same as 'none'"),
    ],
)
def test_mistakes_in_the_ledger_are_named(old, new, said, tmp_path):
    path = tmp_path / 'small.yaml'
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(InputError, match=said):
        read_study(path)


def test_losses_are_told_by_epoch_or_by_twentieths_of_the_steps():
    by_epoch = [dict(step=step, epoch=1 + step // 3, loss=step) for step in range(1, 6)]
    assert _losses([*by_epoch, dict(step=5, epoch=2, loss=9)]) == {1: 1.5, 2: pytest.approx(16 / 3)}
    by_step = [dict(step=step, loss=step) for step in range(1, 101)]
    found = _losses(by_step)
    assert list(found) == list(range(5, 101, 5)) and found[5] == 3 and found[100] == 98


@pytest.fixture
def tool():
    return in_process('experiment')


@pytest.fixture
def quick(tmp_path, small, digits):
    """The ledger of a run of seconds, and the tool's arguments that run its row and seed."""
    path = tmp_path / 'ledger' / 'small.yaml'
    pairs = {**dict(pair.split('=') for pair in QUICK), 'train_cfg.max_epochs': '1'}
    pairs.pop('randomness.seed')
    given = {key: json.loads(value.lower()) for key, value in pairs.items()}
    path.write_text(f'{SMALL}\noptions: {json.dumps(given)}\n')
    common = ('--ledger', path.parent, '--results', tmp_path / 'results')
    what = ('run', 'small', '--row', 'CBAM', '--seed', 1, '--data-root', digits)
    return read_study(path), common, (*what, '--work-dirs', tmp_path / 'work')


def test_a_run_is_recorded_and_not_run_again(quick, tool, digits, tmp_path, capsys):
    study, common, what = quick
    assert tool(*common, *what) == 0, capsys.readouterr().err
    first = read_record(tmp_path / 'results', study, study.rows['CBAM'], 1)
    assert first['seed'] == 1 and first['environment']['torch']
    assert first['command'] == command(study, study.rows['CBAM'], 1)
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
    mean = np.mean([x['loss'] for x in log if 'loss' in x])
    assert first['loss'] == {'1': pytest.approx(mean, abs=1e-5)}
    found = [{k: v for k, v in x.items() if '/' in k} for x in log if 'loss' not in x and x['step']]
    assert found and first['validation'] == {'1': found[0]}
    assert values(study, study.rows['CBAM'], tmp_path / 'results', 'AP') == {
        1: 100 * first['metrics']['coco/bbox_mAP']
    }
    assert 'config:' not in capsys.readouterr().err
    assert tool(*common, *what) == 0
    assert capsys.readouterr().out.startswith('small: what was asked for is recorded in ')
    assert tool(*common, 'commands', 'small') == 0
    assert len(capsys.readouterr().out.splitlines()) == 8  # of 9 runs
    gates = ('gates', 'small', '--data-root', what[what.index('--data-root') + 1], '--count', 2)
    assert tool(*common, *gates) == 2
    said = capsys.readouterr().err
    assert 'no checkpoint with the recorded weights in work_dirs/' in said
    assert said.endswith('; give the --work-dirs of the runs\n')
    assert tool(*common, *gates, '--work-dirs', tmp_path / 'work') == 0
    taken = json.loads(gates_path(tmp_path / 'results', study).read_text())
    assert list(taken['rows']) == ['CBAM'] and taken['images'] == 2
    (low, middle, high), spatial = taken['rows']['CBAM'].values()
    assert 0.9 < low <= middle <= high < 1.1  # three steps from the identity
    assert taken['runs']['CBAM']['channel'] == {'1': [low, middle, high]}
    said = capsys.readouterr().out
    assert f'{low:.2f} to {high:.2f} | {spatial[0]:.2f} to {spatial[2]:.2f} |' in said
    assert '5% to 95%, means over the runs, on 2 validation images' in said


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


@pytest.mark.slow
def test_costs_of_all_rows_are_measured_in_one_run_and_recorded(small, tmp_path):
    small = replace(small, rows={name: small.rows[name] for name in ('none', 'CBAM')})
    found = costs(small, tmp_path, rounds=2, device='cpu')
    assert found == json.loads(cost_path(tmp_path, small).read_text())
    assert list(found['rows']) == ['none', 'CBAM'] and found['batch'] == 4
    assert all(0 < row['train_ms'][0] < 60_000 for row in found['rows'].values())
    assert found['command'] == 'python tools/experiment.py cost small'


def test_plan_counts_steps_hours_and_memory(tool, tmp_path, capsys):
    study = read_study(ROOT / 'experiments' / 'table7.yaml')
    found = plan(study, study.rows['VGG16 SSD'], teraflops=8)
    assert found.steps == 24 * math.ceil(16551 * 10 / 64)  # RepeatDataset, batches of 8
    assert found.images == 64 * found.steps
    assert (
        found.multiply_adds == count(read_config('ssd300_vgg16_voc'), training=True).multiply_adds
    )
    assert found.hours == pytest.approx(6 * found.multiply_adds * found.images / 64e12 / 3600)
    study = read_study(ROOT / 'experiments' / 'table6.yaml')
    found = plan(study, study.rows['ResNet50'], teraflops=8)
    assert found.steps == found.images == 490_000  # max_iters, one image each
    assert tool('run', 'table6', '--gpus', 8) == 2
    assert (
        'table6 is made for --gpus 1, and 8 would train on another batch' in capsys.readouterr().err
    )
    assert tool('plan', 'table7', '--gpus', 16, '--out', tmp_path / 'plan.json') == 0
    said = capsys.readouterr().out
    record = json.loads((tmp_path / 'plan.json').read_text())
    rows = record['studies']['table7']['rows']
    assert len(rows) == 8 and rows['VGG16 SSD']['steps'] == 24 * math.ceil(16551 * 10 / 64)
    hours = sum(row['runs'] * row['gpus'] * row['hours'] for row in rows.values()) / 16
    assert f'about {hours:.0f} hours for all runs on 16 GPUs' in said
    assert plan_table(record) in said
    assert tool('plan', 'table1') == 2
    assert 'table1 cannot be planned' in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_comes_out_the_same_again_or_what_differs_is_told(quick, tool, tmp_path, capsys):
    study, common, what = quick
    again = ('repeat', *what[1:])
    assert tool(*common, *what) == 0
    assert tool(*common, *again) == 0
    assert 'all numbers are the same' in capsys.readouterr().out
    assert tool(*common, *again) == 2
    assert 'is there; remove it' in capsys.readouterr().err
    shutil.rmtree(tmp_path / 'work')
    which = (tmp_path / 'results', study, study.rows['CBAM'], 1)
    losses = read_record(*which)['loss']
    loss = losses['1']
    change_record(*which, loss=losses | {'1': 7.5})
    assert tool(*common, *again) == 0
    assert f'differs: loss of epoch 1 7.5 -> {loss}' in capsys.readouterr().out


def test_tool_lists_the_ledger_and_names_what_it_lacks(tool, capsys):
    assert tool('list', 'table6') == 0
    assert 'ResNet101 + CBAM' in capsys.readouterr().out
    assert tool('table', 'table9') == 2
    assert "no study 'table9'" in capsys.readouterr().err
    assert tool('run', 'table6', '--row', 'ResNet9') == 2
    assert "no row 'ResNet9'; it has ResNet50" in capsys.readouterr().err
