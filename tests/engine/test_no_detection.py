"""A test in which a detector finds nothing does not end in success."""

from __future__ import annotations

import pytest
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from cbam_det.engine.hooks import DetectionCountHook
from cbam_det.utils.errors import InputError


def sample(count: int) -> DetDataSample:
    data_sample = DetDataSample()
    data_sample.pred_instances = InstanceData(labels=[0] * count)
    return data_sample


@pytest.mark.parametrize(('counts', 'fails'), [([[0, 0], [0]], True), ([[0, 0], [1]], False)])
def test_no_detection_in_any_image_is_an_error(counts, fails, tmp_path):
    hook = DetectionCountHook()
    hook.before_test(None)
    for batch in counts:
        hook.after_test_iter(None, 0, outputs=[sample(count) for count in batch])
    if not fails:
        hook.check()
        return
    checkpoint = tmp_path / 'epoch_1.pth'
    checkpoint.touch()
    with pytest.raises(InputError, match='there is no detection in 3 images') as error:
        hook.check(str(checkpoint))
    assert f'visualize.py curves {tmp_path})' in str(error.value)
    with pytest.raises(InputError, match='check that the loss decreases, or lower score_thr'):
        hook.check('https://example.com/epoch_1.pth')


def test_models_without_boxes_are_not_asked_for_any():
    hook = DetectionCountHook()
    hook.after_test_iter(None, 0, outputs=[dict(pred_score=1.0), DetDataSample()])
    hook.check()
