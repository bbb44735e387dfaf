"""The checkpoint that a run resumes from, and what a checkpoint tells about its training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cbam_det.apis.inference import Predictor
from cbam_det.checkpoints.files import read_checkpoint
from cbam_det.checkpoints.loading import check_checkpoint, last_readable_checkpoint, trained_classes
from cbam_det.models.build import build_model
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS


def save(path: Path, model: nn.Module, **others: object) -> Path:
    torch.save(dict(state_dict=model.state_dict(), **others), path)
    return path


@pytest.mark.parametrize(
    ('model', 'others', 'words'),
    [
        (nn.Linear(3, 1), dict(meta={}, optimizer={}), 'does not fit the model of this config'),
        (nn.Linear(2, 1), dict(meta={}), 'it has no optimizer'),
        (nn.Linear(2, 1), dict(meta={}, optimizer=print), 'it contains more than weights'),
    ],
    ids=['another model', 'no optimizer', 'code'],
)
def test_resume_does_not_start_over_beside_checkpoints_that_a_run_has_written(
    model, others, words, tmp_path
):
    save(tmp_path / 'weights.pth', model, **others)
    assert last_readable_checkpoint(str(tmp_path), nn.Linear(2, 1)) is None
    save(tmp_path / 'epoch_1.pth', model, **others)
    with pytest.raises(InputError, match=f'epoch_1.pth.*{words}'):
        last_readable_checkpoint(str(tmp_path), nn.Linear(2, 1))
    fitting = save(tmp_path / 'epoch_2.pth', nn.Linear(2, 1), meta={}, optimizer={})
    assert last_readable_checkpoint(str(tmp_path), nn.Linear(2, 1)) == str(fitting)


def test_resume_ignores_a_link_to_a_removed_checkpoint(tmp_path):
    (tmp_path / 'latest.pth').symlink_to(tmp_path / 'epoch_2.pth')
    path = save(tmp_path / 'epoch_1.pth', nn.Linear(2, 1), meta={}, optimizer={})
    assert last_readable_checkpoint(str(tmp_path)) == str(path)


def test_missing_file_is_not_called_unsafe_because_of_its_name(tmp_path):
    with pytest.raises(InputError, match=r'can not be found.*; download it again'):
        read_checkpoint(str(tmp_path / 'weights_only.pth'), 'the weights', 'download it again')


def test_classes_of_checkpoints_of_mmdet_2_and_3_are_read():
    assert trained_classes(dict(meta=dict(dataset_meta=dict(classes=['a', 'b'])))) == ('a', 'b')
    assert trained_classes(dict(meta=dict(CLASSES=('a', 'b'), epoch=12))) == ('a', 'b')
    assert trained_classes(dict(meta=dict(epoch=12))) == trained_classes({}) == ()


def test_checkpoint_of_a_semi_supervised_model_fits_its_config_and_the_teacher_predicts(tmp_path):
    cfg = read_config(str(CONFIGS / 'retinanet_mobilenetv2_cbam_digits.py'))
    cfg.model = dict(type='SoftTeacher', detector=cfg.model)
    teacher = build_model(cfg).state_dict()
    state = {f'teacher.{key}': value for key, value in teacher.items()}
    state |= {f'student.{key}': torch.zeros_like(value) for key, value in teacher.items()}
    path = str(tmp_path / 'iter_10.pth')
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('a',)))), path)
    predictor = Predictor(cfg, path)
    assert predictor.classes == ('a',)
    loaded = predictor.model.state_dict()
    assert all(torch.equal(value.cpu(), teacher[key]) for key, value in loaded.items())
    torch.save(dict(state_dict={**state, 'teacher.backbone.more': torch.ones(1)}), path)
    with pytest.raises(InputError, match=r'1 weights unknown to the model \(backbone.more\)'):
        check_checkpoint(path, 'checkpoint', build_model(cfg))
