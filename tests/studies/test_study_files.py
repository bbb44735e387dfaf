"""Files of studies: mistakes in them, and whether records match their configs and data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import mmdet
import pytest
import torch

from cbam_det.datasets.validation.fingerprint import fingerprint
from cbam_det.models.build import build_model
from cbam_det.studies.records import (
    config_hash,
    outdated_runs,
    read_record,
    records_path,
    runs_without_row,
)
from cbam_det.studies.study import options, read_study, run_name
from cbam_det.utils.config import find_config, override, read_config
from cbam_det.utils.data_config import DataSet
from cbam_det.utils.errors import InputError

from ..conftest import ROOT
from ..study_records import put_record
from .small_study import SMALL

STUDY_FILES = sorted((ROOT / 'experiments').glob('*.yaml'))


@pytest.mark.parametrize('path', STUDY_FILES, ids=lambda path: path.stem)
def test_every_row_of_a_study_has_a_config_that_takes_its_overrides(path):
    study = read_study(path)
    for row in study.rows.values():
        assert Path(find_config(row.config)).is_file()
        assert row.seeds and set(row.paper) <= set(study.metrics_of(row))
        cfg = override(read_config(row.config), options(study, row, 7))
        assert cfg.randomness.seed == 7
        attention = [key for key in build_model(cfg).state_dict() if '_gate.' in key]
        assert attention or row.against is None


def test_the_studies_have_every_row_of_the_paper_s_tables():
    rows = {path.stem: len(read_study(path).rows) for path in STUDY_FILES}
    expected = dict(table1=4, table2=6, table3=4, table4=24, table5=6, table6=4, table7=8)
    assert {name: rows[name] for name in expected} == expected
    paper = read_study(ROOT / 'experiments' / 'table6.yaml').rows
    assert paper['ResNet101 + CBAM'].paper == dict(AP=30.8, AP50=50.5, AP75=32.6)


def test_detector_of_the_chain_gets_every_weight_of_its_classifier_with_the_attention(tmp_path):
    study = read_study(ROOT / 'experiments' / 'table6_chain.yaml')
    row = study.rows['ResNet50 + CBAM']
    (name,) = set(row.weights.values())
    source = study.rows[name]
    classifier = build_model(override(read_config(source.config), options(study, source, 0)))
    for parameter in classifier.parameters():
        torch.nn.init.uniform_(parameter)  # the detector's own gates start elsewhere
    checkpoint = tmp_path / 'epoch_100.pth'
    torch.save(dict(state_dict=classifier.state_dict()), checkpoint)
    weights = dict.fromkeys(row.weights, str(checkpoint))
    detector = build_model(override(read_config(row.config), options(study, row, 0) | weights))
    detector.init_weights()
    expected, loaded = classifier.backbone.state_dict(), detector.backbone.state_dict()
    loaded |= detector.roi_head.shared_head.state_dict()
    assert loaded.keys() == expected.keys() and sum('_gate.' in key for key in loaded) > 16
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert detector.backbone.layer2[0].conv2.stride == (2, 2)  # as in the classifier
    assert classifier.backbone.layer2[0].conv2.stride == (2, 2)


def test_records_of_another_config_are_outdated(small, tmp_path):
    row = small.rows['CBAM']
    for seed, digest in enumerate([config_hash(small, row, 0), 'another']):
        put_record(tmp_path, small, row, seed, config_hash=digest)
    path = records_path(tmp_path, small)
    assert outdated_runs(small, tmp_path) == [(row, 1)]
    with path.open('a') as stream:
        stream.write('{"config_hash": \n')
    with pytest.raises(InputError, match=f'{path.name}, line 3 is not valid JSON .*; remove'):
        outdated_runs(small, tmp_path)


@pytest.mark.skipif(mmdet.__version__ != '3.5.1', reason="the records' configs have its bases")
@pytest.mark.parametrize('path', STUDY_FILES, ids=lambda path: path.stem)
def test_records_match_the_current_configs(path):
    for folder in ('experiments', 'repeats'):
        assert outdated_runs(read_study(path), ROOT / 'results' / folder) == []


def test_fingerprint_of_data_follows_the_annotations_in_its_list(digits, tmp_path):
    root = shutil.copytree(digits / 'VOCdevkit' / 'VOC2007', tmp_path / 'VOC2007')
    prefix = dict(sub_data_root='VOC2007/')
    dataset = dict(type='XMLDataset', data_root=str(tmp_path), data_prefix=prefix)
    dataset['ann_file'] = 'VOC2007/ImageSets/Main/val.txt'
    before = fingerprint(DataSet.from_cfg(dataset))
    lists = [
        (root / f'ImageSets/Main/{split}.txt').read_text().split() for split in ('train', 'val')
    ]
    for names, unchanged in zip(lists, (True, False), strict=True):
        with (root / f'Annotations/{names[0]}.xml').open('a') as file:
            file.write(' ')
        assert (fingerprint(DataSet.from_cfg(dataset)) == before) is unchanged
    with pytest.raises(InputError, match=r'none\.txt'):
        fingerprint(DataSet.from_cfg(dict(dataset, ann_file='VOC2007/ImageSets/Main/none.txt')))


def test_equal_rows_of_two_studies_share_a_run(small, tmp_path):
    none, cbam, paper = small.rows.values()
    names = {run_name(small, row, 0) for row in (none, cbam, paper)}
    assert len(names) == 3 and 'faster_rcnn_r50_cbam_digits-0' in names
    table2, table3 = (read_study(ROOT / 'experiments' / f'table{n}.yaml') for n in (2, 3))
    names = [{run_name(study, row, 0) for row in study.rows.values()} for study in (table2, table3)]
    assert len(names[0] & names[1]) == 2  # SE, and CBAM
    shared = next(row for row in table2.rows.values() if run_name(table2, row, 0) in names[1])
    equal_row = next(row for row in table3.rows.values() if run_name(table3, row, 0) in names[0])
    put_record(tmp_path, table2, shared, 0, metrics={'accuracy/top1': 70.0})
    assert read_record(tmp_path, table3, equal_row, 0)['row'] == shared.name
    assert runs_without_row(table3, tmp_path) == runs_without_row(table2, tmp_path) == []


def test_rows_and_seeds_have_different_hashes(small):
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
        ('test_evaluator.type', 'FastCocoMetric', False),
        ('fast_coco_eval', False, False),
    ],
)
def test_hash_changes_only_with_keys_that_affect_the_numbers(small, key, value, counts):
    row = small.rows['CBAM']
    changed = replace(row, overrides={key: value})
    assert (config_hash(small, row, 0) != config_hash(small, changed, 0)) == counts


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('title: small', 'titel: small', 'titel'),
        ('against: none', 'against: nothing', "compared with 'nothing', but there is no such row"),
        ('config: faster_rcnn_r50_digits, ', '', "row 'none': the keys must include config"),
        ('rows:', 'rows: [', 'cannot be read as YAML'),
        ('  CBAM:', '  none:', "duplicate key 'none'"),
        (
            'seeds: [0, 1, 2]',
            'seeds: 3',
            'seeds must be a list of different whole numbers from 0 on, not 3',
        ),
        ('seeds: [0, 1, 2]', 'seeds: [0, 0]', r'seeds must be .*, not \[0, 0\]'),
        ('seeds: [0, 1, 2]', 'seeds: [-1]', 'seeds must be .* numbers from 0 on, not'),
        ('seeds: [0, 1, 2]', 'rows: []', "duplicate key 'rows'"),
        ('  none: {', '  none: {note: a, note: b, ', "duplicate key 'note'"),
        ('  none:', '  3:', 'the name of the row 3 must be a string; write it in quotes$'),
        ('  none:', '  no:', 'the name of the row False must be a string; write it in quotes$'),
        ('  none:', '  null:', 'the name of the row None must be a string; write it in quotes$'),
        ('against: none', 'against: 3', 'against must be a string, if necessary in quotes, not 3'),
        ('{AP: 27.0}', '{AP: x}', "row 'none': paper must be a mapping of names to numbers, not"),
        ('{AP: 27.0}', '{AP: null}', 'paper must be a mapping of names to numbers, not'),
        ('{AP: 27.0}', '{AP: .nan}', 'paper must be a mapping of names to numbers, not'),
        ('{AP: 27.0}', '{AP: true}', 'paper must be a mapping of names to numbers, not'),
        ('paper: {AP: 27.0}', 'mmdet: {5: 27.0}', 'mmdet must be a mapping of names to numbers'),
        ('AP: coco/bbox_mAP,', 'AP: [a],', 'metrics must be a mapping of names to keys of the log'),
        ('AP: coco/bbox_mAP,', 'AP: 5,', 'metrics must be a mapping of names to keys of the log'),
        ('AP: coco/bbox_mAP,', 'AP: null,', 'metrics must be a mapping of names to keys of the'),
        ('seeds:', 'options: {5: 3}\nseeds:', 'options must be a mapping whose keys are strings'),
        ('model.backbone.plugins.0.cfg.start', '5', 'overrides must be a mapping whose keys are'),
        ('seeds:', 'gpus: 0\nseeds:', 'gpus must be a whole number from 1 on, not 0'),
        ('seeds:', 'images: 0\nseeds:', 'images must be a whole number from 1 on, not 0'),
        ('seeds:', 'scale: .inf\nseeds:', 'scale must be a number, not inf'),
        (
            'metrics: {AP: coco/bbox_mAP, AP50: coco/bbox_mAP_50}',
            'metrics: {}',
            'one entry or more',
        ),
        ('seeds:', "gpus: '1'\nseeds:", "gpus must be a whole number from 1 on, not '1'"),
        ('faster_rcnn_r50_cbam_digits, ', 'faster_rcnn_r50_digits, ', "the same as 'none'"),
        ('seeds:', 'options: {lr: 1e-3}\nseeds:', r"options.lr is '1e-3', .*; write 0\.001$"),
        ('seeds:', 'options:\n  size: (8, 8)\nseeds:', r'size is .*; write \[8, 8\]$'),
        (
            'cfg.start: paper',
            'cfg: {start: 1}',
            r'start.*overrides\..*dots, .*plugins\.0\.cfg\.start',
        ),
        (
            'config: faster_rcnn_r50_digits,',
            'config: other/faster_rcnn_r50_cbam_digits.py,',
            "'none' and 'CBAM' have configs of the same name, .*: other/",
        ),
    ],
)
def test_mistakes_in_a_study_are_reported(old, new, message, tmp_path):
    path = tmp_path / 'small.yaml'
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_study(path)


def test_rows_can_be_merged_and_their_keys_given_again(tmp_path):
    path = tmp_path / 'small.yaml'
    merged = SMALL.replace('  CBAM: {', '  CBAM: &cbam {').replace(
        '    config: faster_rcnn_r50_cbam_digits\n    against: none\n', '    <<: *cbam\n'
    )
    path.write_text(merged + '    paper: {AP: 28.2}\n')
    rows = read_study(path).rows
    assert rows['paper start'].config == rows['CBAM'].config and 'CBAM' in merged
    assert rows['paper start'].against == 'none' and rows['paper start'].paper == {'AP': 28.2}
    assert rows['CBAM'].paper == {'AP': 28.1}
