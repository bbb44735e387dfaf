"""Rows of the ledger that start from another row's weights, as detectors do from a classifier."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cbam_det.checkpoints.loading import weights_digest
from cbam_det.studies.figure import study_figure
from cbam_det.studies.measures import heat_inside
from cbam_det.studies.records import (
    add_record,
    check_records,
    config_hash,
    read_record,
    records_path,
)
from cbam_det.studies.runs import run, start_weights
from cbam_det.studies.study import focus_path, read_study, run_name
from cbam_det.studies.verdicts import breakdown, heat_table, table
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from ..ledger import BARE, change_record, put_record

CHAIN = """
title: chain
metrics: {AP: coco/bbox_mAP}
seeds: [0, 1]
rows:
  first: {config: faster_rcnn_r18_digits, metrics: {Top-1: accuracy/top1}, scale: 1}
  second:
    config: faster_rcnn_r50_digits
    weights: {model.backbone.init_cfg.checkpoint: first}
  second with attention:
    config: faster_rcnn_r50_cbam_digits
    against: second
    weights: {model.backbone.init_cfg.checkpoint: first}
"""


def study_of(tmp_path: Path, text: str = CHAIN):
    path = tmp_path / 'chain.yaml'
    path.write_text(text)
    return read_study(path)


@pytest.fixture
def stubbed(monkeypatch):
    """Tools that only write what a training and a test leave; the calls as (name, arguments)."""
    calls = []
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: {})

    def call(name, config, first, last, folder, gpus, lock) -> int:
        calls.append((name, [*first, *last]))
        if name == 'train':
            state = {'backbone.w': torch.full((2,), float(len(calls)))}
            torch.save(dict(state_dict=state, meta=dict(time='now')), folder / 'epoch_1.pth')
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
            return 0
        log = folder / '20261129' / '20261129.json'
        log.parent.mkdir(exist_ok=True)
        log.write_text(json.dumps({'coco/bbox_mAP': 0.4, 'accuracy/top1': 41.0}))
        return 0

    monkeypatch.setattr('cbam_det.studies.runs.call_tool', call)
    return calls


def test_row_gets_the_weights_of_the_same_seed_and_records_their_digest(stubbed, tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    results, work = tmp_path / 'results', tmp_path / 'work'
    made = [run(study, first, seed, results, work) for seed in (0, 1)]
    assert made[0]['weights'] != made[1]['weights'] and made[0]['starts_from'] == {}
    for seed in (0, 1):
        found = run(study, second, seed, results, work)
        assert found['starts_from'] == {'first': made[seed]['weights']}
        file = work / f'faster_rcnn_r18_digits-{seed}' / 'epoch_1.pth'
        assert f'model.backbone.init_cfg.checkpoint={file}' in stubbed[-2][1]
        assert weights_digest(torch.load(file)) == made[seed]['weights']
    count = len(stubbed)
    assert run(study, second, 0, results, work)['starts_from'] and len(stubbed) == count
    lines = table(study, results).splitlines()
    assert lines[:3] == [
        '|  | n | Top-1 | Top-1, difference | p | says |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
        '| first | 2 | 41.00 ± 0.00 |  |  |  |',
    ]
    assert lines[4] == '|  | n | AP | AP, difference | p | says | Top-1 of its start |'
    assert lines[6] == '| second | 2 | 40.00 ± 0.00 |  |  |  | 41.00 ± 0.00 |'


def test_first_link_that_is_missing_damaged_or_other_is_named_with_its_command(stubbed, tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    what = (study, second, 0, tmp_path / 'results', tmp_path / 'work')
    begin = "'second' starts from the weights of 'first', seed 0, and "
    make = 'tools/experiment.py run chain --row first --seed 0'
    with pytest.raises(InputError, match=f'{begin}no such run is recorded .* {make}$'):
        run(*what)
    run(study, first, *what[2:])
    folder = tmp_path / 'work' / run_name(study, first, 0)
    moved = tmp_path / 'work' / 'repeat' / folder.name
    shutil.copytree(folder, moved)
    again = make.replace(' run ', ' repeat ')
    weights = folder / 'epoch_1.pth'
    weights.write_bytes(weights.read_bytes()[:100])
    ((path, _),) = start_weights(*what[:3], *what[3:]).values()  # the repetition has them, too
    assert path == moved / 'epoch_1.pth'
    shutil.rmtree(moved)
    with pytest.raises(InputError, match=f'they are not in .*truncated or damaged.* {again}'):
        run(*what)
    torch.save(dict(state_dict={'backbone.w': torch.zeros(2)}), weights)
    with pytest.raises(InputError, match=f'holds other weights .*than its record names.* {again}'):
        run(*what)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=f'they are not in .*no checkpoint.* {again}'):
        run(*what)
    change_record(what[3], study, first, 0, config_hash='another')
    with pytest.raises(InputError, match='of another config than their row has now'):
        run(*what)


def test_hash_and_name_of_a_run_depend_on_the_row_that_it_starts_from(tmp_path):
    study = study_of(tmp_path)
    other = study_of(
        tmp_path, CHAIN.replace('faster_rcnn_r18_digits', 'faster_rcnn_r18_cbam_digits')
    )
    alone = study_of(tmp_path, CHAIN.replace('    weights: {model.backbone.init', '    #'))
    seen = [
        (run_name(one, one.rows['second'], 0), config_hash(one, one.rows['second'], 0))
        for one in (study, other, alone)
    ]
    assert len({name for name, _ in seen}) == len({digest for _, digest in seen}) == 3
    assert seen[2][0] == 'faster_rcnn_r50_digits-0'  # as before there were such rows
    assert run_name(study, study.rows['second'], 1)[:-1] == seen[0][0][:-1]


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ('checkpoint: first}', 'checkpoint: third}', "weights of 'third', which is no row before"),
        ('rows:\n  first: {', 'rows:\n  first: {seeds: [1, 2], ', 'which has no seed 0; give both'),
        ('weights: {model', 'overrides: {a: 1}\n    weights: {a: first, model', 'in its overrides'),
        ('weights: {', 'weights: [', 'YAML|weights takes a mapping'),
        ('against: second', 'against: first', "compared with 'first', which has other metrics"),
    ],
)  # fmt: skip
def test_mistakes_of_a_chain_are_named_as_its_file_is_read(old, new, said, tmp_path):
    with pytest.raises(InputError, match=said):
        study_of(tmp_path, CHAIN.replace(old, new))


def test_commands_of_a_chain_are_seed_by_seed_the_first_link_first(tmp_path, capsys):
    study_of(tmp_path)
    call = in_process('experiment')
    assert call('--ledger', tmp_path, '--results', tmp_path, 'commands', 'chain') == 0
    rows = [line.partition('--row ')[2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        f'{row} --seed {seed}'
        for seed in (0, 1)
        for row in ('first', 'second', "'second with attention'")
    ]


def test_details_are_paired_by_size_and_class_from_gain_to_loss(tmp_path):
    study = study_of(tmp_path)
    gaps = {'cat': (0.10, 0.12), 'dog': (-0.02, -0.01), 'cow': (0.02, 0.05)}
    for seed in (0, 1):
        for name, sign in (('second', 0), ('second with attention', 1)):
            metrics = {
                f'coco/{kind}_precision': 0.3 + 0.1 * seed + sign * gap[seed]
                for kind, gap in gaps.items()
            }
            metrics |= {'coco/bbox_mAP_s': 0.1 + sign * 0.01, 'coco/bbox_mAP_m': -1.0}
            metrics |= {'coco/owl_precision': None, 'pascal_voc/mAP': 0.5}
            put_record(tmp_path, study, study.rows[name], seed, metrics=metrics)
    lines = breakdown(study, tmp_path).splitlines()
    assert lines[0] == '| second with attention, AP | n | second | difference |'
    assert lines[2:6] == [
        '| small | 2 | 10.00 | +1.00 (+1.00 to +1.00) |',
        '| cat | 2 | 35.00 | +11.00 (-1.71 to +23.71) |',
        '| cow | 2 | 35.00 | +3.50 (-15.56 to +22.56) |',
        '| dog | 2 | 35.00 | -1.50 (-7.85 to +4.85) |',
    ]
    assert lines[-1].startswith('0 of 3 classes have an interval without 0; by chance alone 0.2')
    assert breakdown(study, tmp_path / 'none').startswith('no detector is recorded')


def test_heat_is_measured_seed_by_seed_and_kept(monkeypatch, tmp_path, capsys):
    study = study_of(tmp_path)
    results, work = tmp_path / 'results', tmp_path / 'work'
    results.mkdir()
    asked = []

    def focus(cfg, explainers, split, count, score) -> dict:
        models = [(one.predictor.checkpoint, one.predictor.name) for one in explainers]
        asked.append((cfg.randomness.seed, models, split, count))
        shares = (0.20, 0.24) if cfg.randomness.seed else (0.20, 0.23)
        names = ('second', 'second with attention')
        rows = {name: dict(energy=[share, 0]) for name, share in zip(names, shares, strict=True)}
        return dict(rows=rows, objects=1000, chance=0.1, method='hirescam')

    monkeypatch.setattr('cbam_det.visualization.focus.focus', focus)
    monkeypatch.setattr(
        'cbam_det.studies.measures.Predictor',
        lambda cfg, checkpoint, name: SimpleNamespace(cfg=cfg, checkpoint=checkpoint, name=name),
    )
    what = (study, results, work, 50, 0.3)
    with pytest.raises(InputError, match='no detector of chain is recorded'):
        heat_inside(*what)

    def ran(seed: int) -> None:
        for name in ('second', 'second with attention'):
            put_record(results, study, study.rows[name], seed, metrics={})
            folder = work / run_name(study, study.rows[name], seed)
            folder.mkdir(parents=True)
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))

    ran(0)
    heat_inside(*what)
    shutil.rmtree(work)  # as on another machine
    put_record(results, study, study.rows['second'], 0, metrics={}, weights='of then')
    ran(1)
    found = heat_inside(*what)
    focus_path(results, study).unlink()
    assert list(heat_inside(*what)['runs']['second with attention']) == ['1']
    assert 'passed over: no checkpoint with the recorded weights in ' in capsys.readouterr().err
    focus_path(results, study).write_text(json.dumps(found))
    assert [(seed, split, count) for seed, _, split, count in asked] == [
        (0, 'test', 50),
        (1, 'test', 50),
        (1, 'test', 50),
    ]
    (first, name), (second, _) = asked[0][1]
    assert name == 'second' and first.endswith('-0/epoch_1.pth') and first != second
    assert list(found['runs']['second with attention']) == ['0', '1']
    line = heat_table(study, results).splitlines()[2]
    assert line == (
        '| second with attention | 2 | 20.00 ± 0.00 | 23.50 ± 0.71 | +3.50 (-2.85 to +9.85) '
        '| 0.090 | no difference seen | 2,000 |'
    )
    with pytest.raises(InputError, match='is of --count 50, not 60; give the same, or remove it'):
        heat_inside(study, results, work, 60, 0.3)


def test_plot_has_a_row_of_panels_for_each_measure_and_losses_where_nothing_was_validated(tmp_path):
    study = study_of(tmp_path)
    for name, row in study.rows.items():
        first = name == 'first'
        metrics = {'accuracy/top1': 41.0} if first else {'coco/bbox_mAP': 0.4}
        validation = {2: {'accuracy/top1': 30.0}, 4: {'accuracy/top1': 41.0}} if first else {}
        made = dict(metrics=metrics, validation=validation, loss={1: 3.0, 2: 2.5})
        put_record(tmp_path, study, row, 0, **made)
    top, below = np.array(study_figure(study, tmp_path).axes).reshape(2, 2)
    assert top[0].get_xlabel().startswith('Top-1, %') and below[0].get_xlabel().startswith('AP, %')
    assert top[1].lines[0].get_xydata().tolist() == [[2, 30], [4, 41]]
    assert top[1].get_ylabel() == 'Top-1, %'
    assert [line.get_xydata().tolist() for line in below[1].lines] == [[[1, 3.0], [2, 2.5]]] * 2
    assert below[1].get_ylabel() == 'mean loss of the epoch'


def test_run_that_began_with_other_weights_than_its_first_link_has_now_is_refused(tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    hashes = {row.name: config_hash(study, row, 0) for row in (first, second)}
    put_record(tmp_path, study, first, 0, config_hash=hashes['first'], weights='new')
    started = dict(config_hash=hashes['second'], starts_from={'first': 'new'})
    put_record(tmp_path, study, second, 0, **started)
    check_records(study, tmp_path)
    change_record(tmp_path, study, second, 0, starts_from={'first': 'old'})
    said = 'chain.jsonl, faster_rcnn_r50_digits-.* began with the weights old, .* ended with new; '
    with pytest.raises(InputError, match=said):
        check_records(study, tmp_path)


def test_line_that_was_cut_off_costs_its_own_run_alone(tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    put_record(tmp_path, study, first, 0, metrics={})
    path = records_path(tmp_path, study)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert (
        read_record(tmp_path, study, first, 0) and read_record(tmp_path, study, second, 0) is None
    )
    add_record(tmp_path, study, second, 0, BARE)
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b'\n') == 2
    for row in (first, second):
        assert read_record(tmp_path, study, row, 0)['row'] == row.name


def test_records_of_processes_that_end_together_are_all_there(tmp_path):
    study = study_of(tmp_path, CHAIN.replace('seeds: [0, 1]', f'seeds: {list(range(40))}'))
    first = study.rows['first']
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: add_record(tmp_path, study, first, seed, BARE), range(40)))
    assert len(records_path(tmp_path, study).read_text().splitlines()) == 40
    assert all(read_record(tmp_path, study, first, seed) for seed in range(40))


def test_hash_of_a_row_leaves_out_the_file_that_its_weights_replace(tmp_path):
    key = 'model.backbone.init_cfg.checkpoint'
    text = CHAIN.replace('faster_rcnn_r50_digits', 'faster_rcnn_r18_half_voc07')
    study = study_of(tmp_path, text)
    second = study.rows['second']
    moved = replace(second, overrides={key: 'elsewhere.pth'})
    assert config_hash(study, second, 0) == config_hash(study, moved, 0)
    assert config_hash(study, second, 0) != config_hash(study, replace(second, weights={}), 0)
