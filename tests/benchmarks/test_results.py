"""Training logs, and the tables of README and documentation made from records."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from benchmarks.metafile import METRICS, means, metafile, shared_overrides
from benchmarks.tables import demo_table, fill_tables
from cbam_det.studies.records import add_record
from cbam_det.studies.study import read_study
from cbam_det.utils.errors import InputError
from cbam_det.visualization.curves import curves, read_log

from ..conftest import ROOT
from ..study_records import MINIMAL_RECORD


def log(folder, name, *rows):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def test_steps_repeated_after_a_resume_replace_earlier_ones(tmp_path):
    log(
        tmp_path,
        '20260101_000000',
        dict(step=1, iter=1, loss=4.0, lr=0.1),
        {'step': 1, 'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2},
        dict(step=2, iter=2, loss=3.0, lr=0.1),
        '{"step": 3, "los',
    )
    log(
        tmp_path,
        '20260101_010000',
        dict(step=2, iter=2, loss=2.5, lr=0.05),
        dict(step=4, iter=4, loss=2.0, lr=0.05),
        {'step': 2, 'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4},
    )
    run = read_log(tmp_path)
    assert run.series['loss'] == ([1, 2, 4], [4.0, 2.5, 2.0])
    assert run.series['learning rate'] == ([1, 2, 4], [0.1, 0.05, 0.05])
    assert run.series['AP'] == ([1, 4], [0.1, 0.3])
    assert run.series['AP50'] == ([1, 4], [0.2, 0.4])


def test_scores_of_coco_and_voc_have_different_names(tmp_path):
    scores = {'coco/bbox_mAP_50': 0.36, 'pascal_voc/AP50': 0.38, 'pascal_voc_area/AP50': 0.37}
    log(tmp_path, '1', dict(step=3, iter=3, loss=4.0), {'step': 1, **scores})
    run = read_log(tmp_path)
    series = {name: values for name, (_, values) in run.series.items() if name != 'loss'}
    assert series == {'AP50': [0.36], 'VOC AP50': [0.38], 'VOC AP50, by area': [0.37]}
    labels = curves([run]).axes[1].get_legend().get_texts()
    assert [text.get_text() for text in labels] == [f'{tmp_path.name} {name}' for name in series]


def test_folder_without_a_log_is_reported(tmp_path):
    with pytest.raises(InputError, match='has no training log'):
        read_log(tmp_path)


def test_tables_on_pages_match_the_records_and_every_study_has_one():
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


def test_metrics_without_anything_to_score_are_empty_cells_and_no_results():
    record = json.loads((ROOT / 'results/demo.json').read_text(encoding='utf-8'))
    record['metrics'] |= {'coco/bbox_mAP_s': None, 'coco/two_precision': None}
    scores = [line.split('|') for line in demo_table(record).splitlines() if '0.' in line]
    assert [scores[0][4].strip(), scores[1][3].strip()] == ['', '']
    runs = [dict(metrics=dict(ap=ap, ap_small=None)) for ap in (0.25, 0.5)]
    assert means(runs, {'AP': 'ap', 'AP75': 'ap_small'}, 100) == {'box AP': 37.5}


def test_table_without_a_record_is_reported(tmp_path):
    with pytest.raises(InputError, match=r'there is no record .*demo.json'):
        fill_tables('<!-- results: demo -->\n<!-- end -->', tmp_path)


def test_metafile_is_up_to_date():
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
    configs = {path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    assert {ROOT / model['Config'] for model in content['Models']} == configs
    for model in content['Models']:
        assert model.get('In Collection', 'CBAM') in collections
        assert {'Name', 'Config', 'Metadata'} <= model.keys()
        for result in model.get('Results', ()):
            assert result.keys() == {'Task', 'Dataset', 'Metrics'}
            assert result['Dataset'] == model['Metadata']['Training Data']
            for name, value in result['Metrics'].items():
                assert name in METRICS.values() and 0 < value < 100


def test_result_of_a_config_is_the_mean_of_its_records():
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
  none: {config: baseline, overrides: {train_cfg.val_begin: 9}}
  CBAM: {config: cbam, overrides: {train_cfg.val_begin: 9}}
  other: {config: cbam, overrides: {train_cfg.val_begin: 9, model.start: paper}}
"""


def test_results_list_overrides_shared_by_all_rows_and_skip_rows_with_others(tmp_path):
    for folder in ('configs', 'studies', 'results'):
        (tmp_path / folder).mkdir()
    for name in ('baseline', 'cbam', 'demo'):
        (tmp_path / 'configs' / f'{name}.py').touch()
    (tmp_path / 'studies' / 'pair.yaml').write_text(STUDY)
    demo = {f'coco/{key}': 0.5 for key in ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75')}
    (tmp_path / 'results/demo.json').write_text(json.dumps(dict(config='demo.py', metrics=demo)))
    study = read_study(tmp_path / 'studies' / 'pair.yaml')
    for row, ap in (('CBAM', 0.25), ('other', 0.75)):
        record = MINIMAL_RECORD | dict(metrics={'coco/bbox_mAP': ap})
        add_record(tmp_path / 'results/experiments', study, study.rows[row], 0, record)
    assert shared_overrides(study, study.rows['other']) == {'train_cfg.val_begin': 9}
    text = metafile(*(tmp_path / folder for folder in ('configs', 'results', 'studies')))
    models = {model['Name']: model for model in yaml.safe_load(text)['Models']}
    assert 'Results' not in models['baseline']
    assert models['cbam']['Results'][0]['Metrics'] == {'box AP': 25.0}
    assert models['cbam']['Metadata']['Overrides'] == (
        'optim_wrapper.type=AmpOptimWrapper train_cfg.val_begin=9'
    )
    assert models['demo']['Results'][0]['Metrics']['box AP50'] == 50.0
    (tmp_path / 'configs/cbam.py').unlink()
    with pytest.raises(InputError, match=r'has a record of cbam, but .* has no such config'):
        metafile(*(tmp_path / folder for folder in ('configs', 'results', 'studies')))
