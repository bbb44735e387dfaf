"""What a model sees of a picture, finds in it, and calls it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from cbam_det.apis.inference import Prediction, PreparedImage, matching_prediction, read_image
from cbam_det.utils.errors import InputError

from .untrained import predictor

pytestmark = pytest.mark.usefixtures('one_thread')


def test_a_picture_that_a_pipeline_cuts_is_shown_as_the_model_sees_it(photo):
    sample = BaseDataElement(metainfo=dict(img_shape=(48, 48), scale_factor=(0.8, 0.8)))
    packed = dict(inputs=torch.arange(3 * 48 * 48).reshape(3, 48, 48) % 255)
    model = SimpleNamespace(
        data_preprocessor=lambda batch, _: dict(
            inputs=torch.zeros(1, 3, 48, 48), data_samples=[sample]
        )
    )
    prepared = PreparedImage.from_packed(read_image(photo), packed, model)
    assert prepared.picture.shape == (48, 48, 3)
    assert (prepared.picture[..., 0] == packed['inputs'][2].numpy()).all()  # BGR to RGB


def test_padding_is_cut_before_values_meet_the_picture():
    data = dict(inputs=torch.zeros(1, 3, 64, 64))
    prepared = PreparedImage(np.zeros((20, 40, 3), np.uint8), data, (32, 64))
    values = np.zeros((64, 64))
    values[32:] = 1  # below the image
    assert not prepared.resize_to_picture(values).any()
    values[:16] = 1
    put = prepared.resize_to_picture(values)
    assert put.shape == (20, 40) and put[:9].all() and not put[11:].any()


def test_found_again_is_the_same_class_with_the_most_overlap():
    box = torch.tensor([0.0, 0, 10, 10])
    wanted = Prediction(1, torch.tensor(0.5), box)
    near, nearer = (Prediction(1, torch.tensor(0.1), box + shift) for shift in (2, 1))
    other, far = Prediction(2, torch.tensor(0.9), box), Prediction(1, torch.tensor(0.9), box + 8)
    assert matching_prediction([far, other, near, nearer], wanted) is nearer
    assert (
        matching_prediction([far, other], wanted) is None
        and matching_prediction([], wanted) is None
    )


def test_class_is_found_by_any_of_its_names_and_by_its_number():
    made = predictor()
    made.classes = ('tench, Tinca tinca', 'goldfish')
    assert [made.label_of(name) for name in ('tench', 'Tinca tinca', 'goldfish', '1')] == [
        0,
        0,
        1,
        1,
    ]
    with pytest.raises(InputError, match='near: goldfish'):
        made.label_of('goldfisch')


def test_near_names_of_a_missing_image_are_listed(photo):
    with pytest.raises(InputError, match=r'near: photo\.png'):
        read_image(photo.replace('photo.png', 'foto.png'))
