"""Rows of the ledger that start from another row's weights, as detectors do from a classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cbam_det.errors import InputError
from cbam_det.experiments.runs import run, start_weights
from cbam_det.experiments.study import config_hash, read_study, record_path, run_name
from cbam_det.experiments.verdicts import table
from cbam_det.loading import weights_digest

from .conftest import in_process

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
    monkeypatch.setattr('cbam_det.experiments.runs.data_digits', lambda *_: {})

    def call(name, config, first, last, folder, gpus) -> int:
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

    monkeypatch.setattr('cbam_det.experiments.runs._call', call)
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
    again = make.replace(' run ', ' repeat ') + '$'
    weights = folder / 'epoch_1.pth'
    weights.write_bytes(weights.read_bytes()[:100])
    ((path, _),) = start_weights(*what[:3], *what[3:]).values()  # the repetition has them, too
    assert path == moved / 'epoch_1.pth'
    shutil.rmtree(moved)
    with pytest.raises(InputError, match=f'they are not in .*cut off or damaged.* {again}'):
        run(*what)
    torch.save(dict(state_dict={'backbone.w': torch.zeros(2)}), weights)
    with pytest.raises(InputError, match=f'holds other weights .*than its record names.* {again}'):
        run(*what)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=f'they are not in .*no checkpoint.* {again}'):
        run(*what)
    path = record_path(what[3], study, first, 0)
    path.write_text(path.read_text().replace(config_hash(study, first, 0), 'another'))
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
