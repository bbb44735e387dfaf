"""CBAM in mmdet's own configs: counts, failures with their reasons, and the table."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import sweep as module
from benchmarks.sweep import PATTERNS, Outcome, attempt, sweep, zoo
from benchmarks.tables import sweep_table
from cbam_det.utils.errors import InputError

from ..conftest import ROOT

TRACKING = 'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py'


@pytest.mark.parametrize(
    ('name', 'family', 'cbams'),
    [
        ('retinanet/retinanet_r18_fpn_1x_coco.py', 'ResNet', 2 * 3),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'ResNet', 4 + 6 + 3),
        ('gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py', 'ResNet', 4 + 6 + 3),
        ('tridentnet/tridentnet_r50-caffe_1x_coco.py', 'TridentResNet', 4 + 6),
        ('hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py', 'HRNet', 4 + 4 * (2 + 4 * 3 + 3 * 4)),
        ('ssd/ssd300_coco.py', 'SSDVGG', 1),
        ('yolox/yolox_s_8xb8-300e_coco.py', 'CSPDarknet', 1 + 3 + 3 + 1),
        ('yolo/yolov3_d53_8xb8-320-273e_coco.py', 'Darknet', 1 + 2 + 8 + 8 + 4),
        ('swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', 'SwinTransformer', 4),
    ],
)
def test_backbone_gets_the_expected_number_of_cbams(name, family, cbams):
    assert attempt(name) == Outcome(family, cbams)


def test_detectors_in_trackers_and_semi_supervision_are_found():
    assert attempt(TRACKING) == Outcome('CSPDarknet', 4 + 12 + 12 + 4)
    name = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    assert attempt(name) == Outcome('ResNet', 13)


def test_teacher_of_a_distillation_is_built_without_its_weights():
    assert attempt('ld/ld_r18-gflv1-r101_fpn_1x_coco.py') == Outcome('ResNet', 6)


def test_config_without_a_model_or_a_backbone_of_mmdet_fails_with_a_reason():
    assert attempt('retinanet/retinanet_tta.py').reason == 'it holds no model'
    reason = 'its Detectron2Wrapper has no backbone of mmdet'
    assert attempt('misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py').reason == reason


def test_backbone_without_known_places_fails_with_its_name(monkeypatch):
    monkeypatch.delitem(PATTERNS, 'SSDVGG')
    outcome = attempt('ssd/ssd300_coco.py')
    reason = 'with CBAM: no place for attention is known in SSDVGG; give after'
    assert (outcome.family, outcome.cbams) == ('SSDVGG', 0) and outcome.reason.startswith(reason)


def test_reasons_distinguish_failures_of_mmdet_from_failures_with_cbam(monkeypatch):
    missing_file = 'sort/faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17train.py'
    assert attempt(missing_file).reason == 'mmdet cannot read it: it names a file that is not there'
    outcome = attempt('cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py')
    assert attempt('glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py').reason == (
        'mmdet cannot build it: transformers is not installed'
    )
    assert outcome.family == 'ResNet' and outcome.reason.startswith('mmdet cannot build it: ')
    assert 'has no num_classes' in outcome.reason
    monkeypatch.setitem(PATTERNS, 'SSDVGG', ['nothing'])
    reason = attempt('ssd/ssd300_coco.py').reason
    assert reason.startswith(
        'with CBAM: this SSDVGG has no module that matches nothing; give after'
    )


def test_attention_that_does_not_run_or_replaces_other_plugins_fails(monkeypatch):
    name = 'ssd/ssd300_coco.py'
    monkeypatch.setattr(module, 'fragment', lambda *_: 'model = dict()')
    assert attempt(name).reason == 'with CBAM: 0 of 0 run'
    text = "model = dict(backbone=dict(type='WithPlugins', base_type='ResNet', plugins=[]))"
    monkeypatch.setattr(module, 'fragment', lambda *_: text)
    plugins = 'gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py'
    assert attempt(plugins).reason == "with CBAM: the backbone's own plugins are lost"


def test_table_counts_backbones_and_reasons(monkeypatch):
    outcomes = {
        'a.py': Outcome('ResNet', 16),
        'b.py': Outcome('ResNet', 33),
        'c.py': Outcome('ResNet', 0, 'why'),
        'd.py': Outcome('Other', 0, 'no place for Other'),
        'e.py': Outcome('', 0, 'why'),
    }
    monkeypatch.setattr(module, 'attempt', outcomes.get)
    record = dict(sweep(outcomes), environment=dict(mmdet='3.5.1'))
    assert record['totals'] == dict(configs=5, built=2, refused=3)
    assert record['families'] == {
        'ResNet': dict(
            pattern=[('layer*.*.?n3', 'layer*.*.?n2')], built=2, refused=1, cbams=[16, 33]
        ),
        'Other': dict(pattern=None, built=0, refused=1, cbams=None),
    }
    assert record['reasons'] == {'why': ['c.py', 'e.py'], 'no place for Other': ['d.py']}
    rows = sweep_table(record).splitlines()
    assert rows[2:4] == [
        '| Other |  |  | 0 | 1 |',
        '| ResNet | `layer*.*.?n3` or `layer*.*.?n2` | 16 to 33 | 2 | 1 |',
    ]
    assert rows[5].startswith('5 configs of mmdet ') and rows[5].endswith('2 built, 3 failed')
    assert rows[-2:] == ['| why | 2 |', '| no place for Other | 1 |']


def test_norm_that_needs_a_process_group_gets_one():
    name = 'strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco.py'
    assert sweep([name])['totals'] == dict(configs=1, built=1, refused=0)
    assert not torch.distributed.is_initialized()


def test_zoo_has_every_config_except_the_bases():
    assert set(zoo('ssd/*')) == {
        *('ssd/ssd300_coco.py', 'ssd/ssd512_coco.py'),
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    }
    assert not [name for name in zoo() if name.startswith('_base_')]
    with pytest.raises(InputError, match="matches 'nothing'"):
        zoo('nothing')


def test_tool_prints_the_table_and_writes_the_record(run, tmp_path):
    done = run('benchmarks.sweep', '--only', 'ssd/*', '--out', 'made/sweep.json', cwd=tmp_path)
    record = json.loads((tmp_path / 'made' / 'sweep.json').read_text())
    assert record['command'] == "python -m benchmarks.sweep --only 'ssd/*' --out made/sweep.json"
    assert record['totals'] == dict(configs=3, built=3, refused=0)
    assert done.stdout == sweep_table(record) + '\n'


@pytest.mark.slow
def test_results_for_the_whole_zoo_equal_the_record(run, tmp_path):
    """In its own process: models that are freed leave gaps in the memory of this one."""
    run('benchmarks.sweep', '--out', 'sweep.json', cwd=tmp_path, timeout=3600)
    result = json.loads((tmp_path / 'sweep.json').read_text(encoding='utf-8'))
    record = json.loads((ROOT / 'results' / 'sweep.json').read_text(encoding='utf-8'))
    for key in ('totals', 'families', 'reasons'):
        assert result[key] == record[key]
