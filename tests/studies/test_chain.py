"""Rows that start from another row's weights, such as detectors from a classifier."""

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
from cbam_det.studies import measures
from cbam_det.studies.breakdown import breakdown
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
from cbam_det.studies.verdicts import heat_table, table
from cbam_det.utils.errors import InputError

from ..conftest import in_process
from ..study_records import MINIMAL_RECORD, change_record, drop_record, put_record

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
# The same with configs that read a file of weights.
PRETRAINED = CHAIN.replace('r50_digits', 'r50').replace('r50_cbam_digits', 'r50_cbam')


def study_of(tmp_path: Path, text: str = CHAIN):
    path = tmp_path / 'chain.yaml'
    path.write_text(text)
    return read_study(path)


@pytest.fixture
def calls(monkeypatch):
    """Tools that only write the files of a training and a test; yields their calls."""
    recorded_calls = []
    monkeypatch.setattr('cbam_det.studies.runs.data_digits', lambda *_: {})

    def call(name, config, positional, options, folder, gpus, lock) -> int:
        recorded_calls.append((name, [*positional, *options]))
        if name == 'train':
            state = {'backbone.w': torch.full((2,), float(len(recorded_calls)))}
            torch.save(dict(state_dict=state, meta=dict(time='now')), folder / 'epoch_1.pth')
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
            return 0
        log = folder / '20261129' / '20261129.json'
        log.parent.mkdir(exist_ok=True)
        log.write_text(json.dumps({'coco/bbox_mAP': 0.4, 'accuracy/top1': 41.0}))
        return 0

    monkeypatch.setattr('cbam_det.studies.runs.call_tool', call)
    return recorded_calls


def test_row_gets_the_weights_of_the_same_seed_and_records_their_digest(calls, tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    results, work = tmp_path / 'results', tmp_path / 'work'
    sources = [run(study, first, seed, results, work) for seed in (0, 1)]
    assert sources[0]['weights'] != sources[1]['weights'] and sources[0]['starts_from'] == {}
    for seed in (0, 1):
        record = run(study, second, seed, results, work)
        assert record['starts_from'] == {'first': sources[seed]['weights']}
        file = work / f'faster_rcnn_r18_digits-{seed}' / 'epoch_1.pth'
        assert f'model.backbone.init_cfg.checkpoint={file}' in calls[-2][1]
        assert weights_digest(torch.load(file)) == sources[seed]['weights']
    count = len(calls)
    assert run(study, second, 0, results, work)['starts_from'] and len(calls) == count
    lines = table(study, results).splitlines()
    assert lines[:3] == [
        '|  | n | Top-1 | Top-1, difference | p | verdict |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
        '| first | 2 | 41.00 ± 0.00 |  |  |  |',
    ]
    assert lines[4] == '|  | n | AP | AP, difference | p | verdict | Top-1 of the initial weights |'
    assert lines[6] == '| second | 2 | 40.00 ± 0.00 |  |  |  | 41.00 ± 0.00 |'


def test_missing_damaged_or_different_initial_weights_are_named_with_their_command(calls, tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    arguments = (study, second, 0, tmp_path / 'results', tmp_path / 'work')
    begin = "'second' starts from the weights of 'first', seed 0, but "
    run_first = 'tools/experiment.py run chain --row first --seed 0'
    with pytest.raises(InputError, match=f'{begin}this run is not recorded .* {run_first}$'):
        run(*arguments)
    run(study, first, *arguments[2:])
    folder = tmp_path / 'work' / run_name(study, first, 0)
    moved = tmp_path / 'work' / 'repeat' / folder.name
    shutil.copytree(folder, moved)
    repeat_first = run_first.replace(' run ', ' repeat ')
    weights = folder / 'epoch_1.pth'
    weights.write_bytes(weights.read_bytes()[:100])
    ((path, _),) = start_weights(*arguments).values()  # the repetition has them too
    assert path == moved / 'epoch_1.pth'
    shutil.rmtree(moved)
    removed = f'remove the line of {folder.name} in .*/results/chain.jsonl and the folder {folder} '
    message = f'are not in .*truncated or damaged.* {repeat_first}; .*, {removed}and run the row'
    with pytest.raises(InputError, match=message):
        run(*arguments)
    torch.save(dict(state_dict={'backbone.w': torch.zeros(2)}), weights)
    with pytest.raises(InputError, match=f'has other weights .*than its record.* {repeat_first}'):
        run(*arguments)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=f'are not in .*no checkpoint.* {repeat_first}'):
        run(*arguments)
    change_record(arguments[3], study, first, 0, config_hash='another')
    message = (
        f'made with other configs than their rows have now; to run them again, {removed[:-1]}$'
    )
    with pytest.raises(InputError, match=message):
        run(*arguments)


def test_hash_and_name_of_a_run_depend_on_the_row_that_it_starts_from(tmp_path):
    study = study_of(tmp_path)
    other_source = study_of(
        tmp_path, CHAIN.replace('faster_rcnn_r18_digits', 'faster_rcnn_r18_cbam_digits')
    )
    no_source = study_of(tmp_path, CHAIN.replace('    weights: {model.backbone.init', '    #'))
    studies = (study, other_source, no_source)
    names = [run_name(variant, variant.rows['second'], 0) for variant in studies]
    hashes = {config_hash(variant, variant.rows['second'], 0) for variant in studies}
    assert len(set(names)) == len(hashes) == 3
    assert names[2] == 'faster_rcnn_r50_digits-0'  # as in records from before `weights:` existed
    assert run_name(study, study.rows['second'], 1)[:-1] == names[0][:-1]


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('checkpoint: first}', 'checkpoint: third}', "of 'third', but there is no such row before"),
        ('rows:\n  first: {', 'rows:\n  first: {seeds: [1, 2], ', 'which has no seed 0; give both'),
        ('weights: {model', 'overrides: {a: 1}\n    weights: {a: first, model', 'and weights'),
        ('weights: {', 'weights: [', 'YAML|weights must be a mapping'),
        ('checkpoint: first}', 'checkpoint: [first]}', 'weights must be a mapping of keys of the'),
        ('{model.backbone.init_cfg.checkpoint: first}', '{5: first}', 'weights must be a mapping'),
        ('against: second', 'against: first', "compared with 'first', which has other metrics"),
    ],
)  # fmt: skip
def test_mistakes_in_a_chain_are_reported_when_its_file_is_read(old, new, message, tmp_path):
    with pytest.raises(InputError, match=message):
        study_of(tmp_path, CHAIN.replace(old, new))


def test_commands_of_a_chain_are_listed_seed_by_seed_with_the_source_first(tmp_path, capsys):
    study_of(tmp_path, PRETRAINED)
    tool = in_process('experiment')
    assert tool('--studies', tmp_path, '--results', tmp_path, 'commands', 'chain') == 0
    rows = [line.partition('--row ')[2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        f'{row} --seed {seed}'
        for seed in (0, 1)
        for row in ('first', 'second', "'second with attention'")
    ]


def test_details_are_paired_by_size_and_class_from_gain_to_loss(tmp_path):
    study = study_of(tmp_path)
    gaps = {'cow': (0.02, 0.05), 'cat': (0.10, 0.12), 'dog': (-0.02, -0.01), 'ant': (0.05, 0.02)}
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
    assert lines[2:7] == [
        '| small objects | 2 | 10.00 | +1.00 (+1.00 to +1.00) |',
        '| cat | 2 | 35.00 | +11.00 (-1.71 to +23.71) |',
        '| ant | 2 | 35.00 | +3.50 (-15.56 to +22.56) |',
        '| cow | 2 | 35.00 | +3.50 (-15.56 to +22.56) |',
        '| dog | 2 | 35.00 | -1.50 (-7.85 to +4.85) |',
    ]
    assert lines[-1] == (
        'For 0 of 4 classes the interval excludes 0; by chance alone, about 0.2 would.'
    )
    assert breakdown(study, tmp_path / 'none').startswith('no detector is recorded')


def test_heat_is_measured_for_each_seed_once(monkeypatch, tmp_path, capsys):
    study = study_of(tmp_path)
    results, work = tmp_path / 'results', tmp_path / 'work'
    results.mkdir()
    focus_calls = []

    def focus(cfg, explainers, split, count, score) -> dict:
        models = [
            (explainer.predictor.checkpoint, explainer.predictor.name) for explainer in explainers
        ]
        focus_calls.append((cfg.randomness.seed, models, split, count))
        shares = (0.20, 0.24) if cfg.randomness.seed else (0.20, 0.23)
        names = ('second', 'second with attention')
        rows = {name: dict(energy=[share, 0]) for name, share in zip(names, shares, strict=True)}
        return dict(rows=rows, objects=1000, chance=0.1, method='hirescam')

    monkeypatch.setattr('cbam_det.visualization.focus.focus', focus)
    monkeypatch.setattr(
        'cbam_det.studies.measures.Predictor',
        lambda cfg, checkpoint, name: SimpleNamespace(cfg=cfg, checkpoint=checkpoint, name=name),
    )
    arguments = (study, results, work, 50, 0.3)
    with pytest.raises(InputError, match='has no detector of chain and its baseline'):
        heat_inside(*arguments)

    def write_runs(seed: int) -> None:
        for name in ('second', 'second with attention'):
            put_record(results, study, study.rows[name], seed, metrics={})
            folder = work / run_name(study, study.rows[name], seed)
            folder.mkdir(parents=True)
            torch.save(dict(state_dict=dict(a=torch.ones(1))), folder / 'epoch_1.pth')
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))

    write_runs(0)
    heat_inside(*arguments)
    shutil.rmtree(work)  # as on another machine
    put_record(results, study, study.rows['second'], 0, metrics={}, weights='of then')
    write_runs(1)
    heat = heat_inside(*arguments)
    focus_path(results, study).unlink()
    write_runs(0)
    next(work.glob('*cbam*-0/epoch_1.pth')).write_bytes(b'damaged')
    assert list(heat_inside(*arguments)['runs']['second with attention']) == ['1']
    assert 'are skipped: no checkpoint with the recorded weights in ' in capsys.readouterr().err
    focus_path(results, study).write_text(json.dumps(heat))
    assert [(seed, split, count) for seed, _, split, count in focus_calls] == [
        (0, 'test', 50),
        (1, 'test', 50),
        (1, 'test', 50),
    ]
    (first, name), (second, _) = focus_calls[0][1]
    assert name == 'second' and first.endswith('-0/epoch_1.pth') and first != second
    assert list(heat['runs']['second with attention']) == ['0', '1']
    line = heat_table(study, results).splitlines()[2]
    assert line == (
        '| second with attention | 2 | 20.00 ± 0.00 | 23.50 ± 0.71 | +3.50 (-2.85 to +9.85) '
        '| 0.090 | no difference seen | 2,000 |'
    )
    with pytest.raises(InputError, match='made with --count 50, not 60; use the same'):
        heat_inside(study, results, work, 60, 0.3)


def test_measurements_of_a_run_that_was_trained_again_are_made_again(monkeypatch, tmp_path):
    study = study_of(tmp_path)
    _, base, row = study.rows.values()
    calls = []

    def weights(study, row, seed, *_) -> dict:
        calls.append(seed)
        quantiles = {'channel': np.full(3, len(calls))}
        return quantiles if len(calls) == 2 else {**quantiles, 'spatial': np.ones(3)}

    def focus(*_) -> dict:
        return dict(rows={}, number=len(calls))

    monkeypatch.setattr(measures, '_has_weights', lambda *_: True)
    monkeypatch.setattr(measures, '_weights', weights)
    monkeypatch.setattr(measures, 'Predictor', lambda *_: None)
    monkeypatch.setattr('cbam_det.visualization.focus.focus', focus)
    explainer = SimpleNamespace(predictor=SimpleNamespace(cfg=None))
    monkeypatch.setattr('cbam_det.visualization.gradcam.Explainer', lambda _: explainer)
    put_record(tmp_path, study, base, 0, weights='of the base')
    put_record(tmp_path, study, row, 0, weights='first')
    for digest, count in (('first', 1), ('first', 1), ('second', 2)):
        change_record(tmp_path, study, row, 0, weights=digest)
        gates = measures.gate_weights(study, tmp_path, tmp_path, 2)
        heat = heat_inside(study, tmp_path, tmp_path, 2, 0.3)
        assert len(calls) == count and gates['rows'][row.name]['channel'] == [count] * 3
        assert heat['runs'][row.name]['0']['number'] == count
        assert gates['digests'] == {row.name: {'0': digest}}
        assert ('spatial' in gates['rows'][row.name]) == (count == 1)  # the second run has none
        assert heat['runs'][row.name]['0']['digests'] == ['of the base', digest]


def test_plot_has_panels_for_each_metric_and_shows_losses_if_there_was_no_validation(tmp_path):
    study = study_of(tmp_path)
    for name, row in study.rows.items():
        first = name == 'first'
        metrics = {'accuracy/top1': 41.0} if first else {'coco/bbox_mAP': 0.4}
        validation = {2: {'accuracy/top1': 30.0}, 4: {'accuracy/top1': 41.0}} if first else {}
        values = dict(metrics=metrics, validation=validation, loss={1: 3.0, 2: 2.5})
        put_record(tmp_path, study, row, 0, **values)
    top, below = np.array(study_figure(study, tmp_path).axes).reshape(2, 2)
    assert top[0].get_xlabel().startswith('test Top-1, %')
    assert below[0].get_xlabel().startswith('test AP, %')
    assert top[1].lines[0].get_xydata().tolist() == [[2, 30], [4, 41]]
    assert top[1].get_ylabel() == 'Top-1, %'
    assert [line.get_xydata().tolist() for line in below[1].lines] == [[[1, 3.0], [2, 2.5]]] * 2
    assert below[1].get_ylabel() == 'mean loss of the epoch'


def test_run_that_started_from_other_weights_than_its_source_has_now_is_refused(tmp_path):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    hashes = {row.name: config_hash(study, row, 0) for row in (first, second)}
    put_record(tmp_path, study, first, 0, config_hash=hashes['first'], weights='new')
    started = dict(config_hash=hashes['second'], starts_from={'first': 'new'})
    put_record(tmp_path, study, second, 0, **started)
    check_records(study, tmp_path)
    change_record(tmp_path, study, second, 0, starts_from={'first': 'old'})
    message = 'chain.jsonl, faster_rcnn_r50_digits-.* started from the weights old, .* with new; '
    with pytest.raises(InputError, match=message):
        check_records(study, tmp_path)
    change_record(tmp_path, study, second, 0, starts_from={})
    message = 'started from the weights of no recorded run, .* ended with new; remove the line of '
    with pytest.raises(InputError, match=message):
        check_records(study, tmp_path)
    drop_record(tmp_path, study, first, 0)  # to be run again
    change_record(tmp_path, study, second, 0, starts_from={'first': 'old'})
    check_records(study, tmp_path)


def test_start_of_a_run_is_compared_also_if_rows_are_renamed_or_named_otherwise_in_another_study(
    tmp_path,
):
    study = study_of(tmp_path)
    first, second, _ = study.rows.values()
    hashes = {row.name: config_hash(study, row, 0) for row in (first, second)}
    put_record(tmp_path, study, first, 0, config_hash=hashes['first'], weights='W1')
    started = dict(config_hash=hashes['second'], starts_from={'first': 'W1'}, weights='W2')
    put_record(tmp_path, study, second, 0, **started)
    path = tmp_path / 'other.yaml'
    renamed = CHAIN.replace('second', 'detector').replace('first', 'second')
    path.write_text(renamed.replace('detector:', 'first:', 1).replace('against: detector', ''))
    other = read_study(path)
    assert [run_name(other, row, 0) for row in other.rows.values()][:2] == [
        run_name(study, row, 0) for row in (first, second)
    ]
    check_records(other, tmp_path)  # whose first row is 'second', and whose second is 'first'
    change_record(tmp_path, study, first, 0, weights='W3')
    message = 'from the weights W1, but .*chain.jsonl, faster_rcnn_r18_digits-0 ended with W3; '
    for name in ('first', 'a name before'):
        change_record(tmp_path, study, second, 0, starts_from={name: 'W1'})
        with pytest.raises(InputError, match=message):
            check_records(other, tmp_path)


def test_no_record_is_lost_when_processes_finish_at_the_same_time(tmp_path):
    study = study_of(tmp_path, CHAIN.replace('seeds: [0, 1]', f'seeds: {list(range(40))}'))
    first = study.rows['first']
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda seed: add_record(tmp_path, study, first, seed, MINIMAL_RECORD), range(40)
            )
        )
    assert len(records_path(tmp_path, study).read_text().splitlines()) == 40
    assert all(read_record(tmp_path, study, first, seed) for seed in range(40))


def test_hash_of_a_row_ignores_the_file_that_its_weights_replace(tmp_path):
    key = 'model.backbone.init_cfg.checkpoint'
    text = CHAIN.replace('faster_rcnn_r50_digits', 'faster_rcnn_r18_half_voc07')
    study = study_of(tmp_path, text)
    second = study.rows['second']
    moved = replace(second, overrides={key: 'elsewhere.pth'})
    assert config_hash(study, second, 0) == config_hash(study, moved, 0)
    assert config_hash(study, second, 0) != config_hash(study, replace(second, weights={}), 0)
