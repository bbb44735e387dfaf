"""Logs become series, records become the tables of the README and the documentation."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from benchmarks.metafile import METRICS, metafile, shared_overrides
from benchmarks.tables import fill_tables
from cbam_det.studies.records import add_record
from cbam_det.studies.study import read_study
from cbam_det.utils.errors import InputError
from cbam_det.visualization.curves import curves, read_run

from ..conftest import ROOT
from ..ledger import BARE


def log(folder, name, *rows):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_resumed_part_replaces_the_steps_that_it_repeats(tmp_path):
    log(
        tmp_path,
        '20260101_000000',
        dict(step=1, iter=1, loss=4.0, lr=0.1),
        dict(step=2, iter=2, loss=3.0, lr=0.1),
        {'step': 1, 'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2},
        '{"step": 3, "los',
    )
    log(
        tmp_path,
        '20260101_010000',
        dict(step=2, iter=2, loss=2.5, lr=0.05),
        dict(step=4, iter=4, loss=2.0, lr=0.05),
        {'step': 2, 'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4},
    )
    run = read_run(tmp_path)
    assert run.series['loss'] == ([1, 2, 4], [4.0, 2.5, 2.0])
    assert run.series['learning rate'] == ([1, 2, 4], [0.1, 0.05, 0.05])
    assert run.series['AP'] == ([2, 4], [0.1, 0.3])
    assert run.series['AP50'] == ([2, 4], [0.2, 0.4])


def test_coco_s_and_voc_s_scores_have_names_of_their_own(tmp_path):
    scores = {'coco/bbox_mAP_50': 0.36, 'pascal_voc/AP50': 0.38, 'pascal_voc_area/AP50': 0.37}
    log(tmp_path, '1', dict(step=3, iter=3, loss=4.0), {'step': 1, **scores})
    run = read_run(tmp_path)
    named = {name: values for name, (_, values) in run.series.items() if name != 'loss'}
    assert named == {'AP50': [0.36], 'VOC AP50': [0.38], 'VOC AP50, by area': [0.37]}
    shown = curves([run]).axes[1].get_legend().get_texts()
    assert [text.get_text() for text in shown] == [f'{tmp_path.name} {name}' for name in named]


def test_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(InputError, match='holds no log of a training'):
        read_run(tmp_path)


def test_pages_show_what_the_records_say_and_every_study_once():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert '<!-- results: demo -->' in text and fill_tables(text, ROOT / 'results') == text
    blocks = []
    for page in sorted((ROOT / 'docs').glob('*/*.md')):
        text = page.read_text(encoding='utf-8')
        assert fill_tables(text, ROOT / 'results') == text, page
        blocks += re.findall(r'<!-- (?:study|results): .*? -->(?=\n\|)', text)
    assert len(blocks) == len(set(blocks))
    studies = {path.stem for path in (ROOT / 'experiments').glob('*.yaml')}
    assert {f'<!-- study: {name} -->' for name in studies} <= set(blocks)


def test_block_without_a_record_is_named(tmp_path):
    with pytest.raises(InputError, match=r'no record .*demo.json'):
        fill_tables('<!-- results: demo -->\n<!-- end -->', tmp_path)


def test_metafile_is_what_its_command_writes():
    text = metafile(ROOT / 'configs', ROOT / 'results', ROOT / 'experiments')
    assert (ROOT / 'configs/metafile.yml').read_text(encoding='utf-8') == text


def test_metafile_has_the_structure_of_openmmlab_s():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert index == {'Import': ['configs/metafile.yml']}
    content = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text(encoding='utf-8'))
    collections = {collection['Name'] for collection in content['Collections']}
    for collection in content['Collections']:
        assert collection['Paper'].keys() == {'URL', 'Title'}
        assert (ROOT / collection['README']).is_file()
    names = [model['Name'] for model in content['Models']]
    assert len(names) == len(set(names))
    leaves = {path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    assert {ROOT / model['Config'] for model in content['Models']} == leaves
    for model in content['Models']:
        assert model.get('In Collection', 'CBAM') in collections
        assert {'Name', 'Config', 'Metadata'} <= model.keys()
        for result in model.get('Results', ()):
            assert result.keys() == {'Task', 'Dataset', 'Metrics'}
            assert result['Dataset'] == model['Metadata']['Training Data']
            for name, value in result['Metrics'].items():
                assert name in METRICS.values() and 0 < value < 100


def test_figure_of_a_leaf_is_the_mean_of_its_records():
    lines = (ROOT / 'results/experiments/bccd.jsonl').read_text(encoding='utf-8').splitlines()
    runs = [
        run['metrics']['coco/bbox_mAP']
        for run in map(json.loads, lines)
        if run['row'] == 'CBAM in the neck, identity start'
    ]
    content = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text(encoding='utf-8'))
    (model,) = [
        model
        for model in content['Models']
        if model['Name'] == 'retinanet_mobilenetv2_cbam_neck_bccd'
    ]
    assert model['Metadata']['Runs'] == len(runs) == 5
    (result,) = model['Results']
    assert result['Metrics']['box AP'] == round(100 * sum(runs) / 5, 1)


STUDY = """
title: two detectors
metrics: {AP: coco/bbox_mAP}
seeds: [0]
options: {optim_wrapper.type: AmpOptimWrapper}
rows:
  none: {config: one, overrides: {train_cfg.val_begin: 9}}
  CBAM: {config: two, overrides: {train_cfg.val_begin: 9}}
  other: {config: two, overrides: {train_cfg.val_begin: 9, model.start: paper}}
"""


def test_figure_under_overrides_of_all_rows_lists_them_and_others_are_left_out(tmp_path):
    for folder in ('configs', 'studies', 'results'):
        (tmp_path / folder).mkdir()
    for leaf in ('one', 'two', 'three'):
        (tmp_path / 'configs' / f'{leaf}.py').touch()
    (tmp_path / 'studies' / 'pair.yaml').write_text(STUDY)
    demo = {f'coco/{key}': 0.5 for key in ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75')}
    (tmp_path / 'results/demo.json').write_text(json.dumps(dict(config='three.py', metrics=demo)))
    study = read_study(tmp_path / 'studies' / 'pair.yaml')
    for row, figure in (('CBAM', 0.25), ('other', 0.75)):
        record = BARE | dict(metrics={'coco/bbox_mAP': figure})
        add_record(tmp_path / 'results/experiments', study, study.rows[row], 0, record)
    assert shared_overrides(study, study.rows['other']) == {'train_cfg.val_begin': 9}
    text = metafile(*(tmp_path / folder for folder in ('configs', 'results', 'studies')))
    models = {model['Name']: model for model in yaml.safe_load(text)['Models']}
    assert 'Results' not in models['one']
    assert models['two']['Results'][0]['Metrics'] == {'box AP': 25.0}
    assert models['two']['Metadata']['Overrides'] == (
        'optim_wrapper.type=AmpOptimWrapper train_cfg.val_begin=9'
    )
    assert models['three']['Results'][0]['Metrics']['box AP50'] == 50.0
    (tmp_path / 'configs/two.py').unlink()
    with pytest.raises(InputError, match='has a record of two, which is no leaf in'):
        metafile(*(tmp_path / folder for folder in ('configs', 'results', 'studies')))
