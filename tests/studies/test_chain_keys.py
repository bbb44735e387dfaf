"""At which keys of its config a row can get the weights of another row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cbam_det.studies.records import config_hash
from cbam_det.studies.study import check_configs
from cbam_det.utils.errors import InputError

from .test_chain import PRETRAINED, study_of

READ = 'model.backbone.init_cfg.checkpoint'


@pytest.mark.parametrize(
    'key',
    [
        'nonsense',
        'model',
        'randomness.seed',
        'load_from.a',
        'model.backbone.depth.checkpoint',
        'model.backbone.init_cfg.checkpiont',
        'model.neck.init_cfg.checkpoint',  # of the type Xavier
    ],
)
def test_weights_at_a_key_that_no_config_reads_are_refused_before_the_first_training(key, tmp_path):
    study = study_of(tmp_path, PRETRAINED.replace(READ, key))
    message = f"chain.yaml, row 'second': the config reads no file of weights at {key} "
    with pytest.raises(InputError, match=message):
        check_configs(tmp_path / 'chain.yaml', study)


@pytest.mark.parametrize('key', [READ, 'load_from', 'model.backbone.plugins.0.cfg.checkpoint'])
def test_key_of_weights_can_lead_through_a_list_and_is_not_in_the_hash(key, tmp_path):
    text = PRETRAINED.replace(READ, key)
    study = study_of(tmp_path, text.replace(f'{key}: first', f'{READ}: first', 1))
    check_configs(tmp_path / 'chain.yaml', study)
    row = study.rows['second with attention']
    assert list(row.weights) == [key]
    moved = replace(row, overrides={key: 'elsewhere.pth'})
    assert config_hash(study, row, 0) == config_hash(study, moved, 0)
