"""Inputs of a model, matching of its predictions, and names of classes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from cbam_det.apis.inference import (
    Prediction,
    Predictor,
    PreparedImage,
    matching_prediction,
    read_image,
)
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from .untrained import DIGITS, predictor

pytestmark = pytest.mark.usefixtures('one_thread')


def test_a_cropping_pipeline_shows_the_crop_as_the_picture(photo):
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


def test_padding_is_removed_before_values_are_resized_to_the_picture():
    data = dict(inputs=torch.zeros(1, 3, 64, 64))
    prepared = PreparedImage(np.zeros((20, 40, 3), np.uint8), data, (32, 64))
    values = np.zeros((64, 64))
    values[32:] = 1  # below the image
    assert not prepared.resize_to_picture(values).any()
    values[:16] = 1
    resized = prepared.resize_to_picture(values)
    assert resized.shape == (20, 40) and resized[:9].all() and not resized[11:].any()


def test_matching_prediction_has_the_same_class_and_the_highest_iou():
    box = torch.tensor([0.0, 0, 10, 10])
    reference = Prediction(1, torch.tensor(0.5), box)
    near, nearer = (Prediction(1, torch.tensor(0.1), box + shift) for shift in (2, 1))
    other_class = Prediction(2, torch.tensor(0.9), box)
    far = Prediction(1, torch.tensor(0.9), box + 8)
    assert matching_prediction([far, other_class, near, nearer], reference) is nearer
    assert matching_prediction([far, other_class], reference) is None
    assert matching_prediction([], reference) is None


def test_class_is_found_by_any_of_its_names_and_by_its_number():
    detector = predictor()
    detector.classes = ('tench, Tinca tinca', 'goldfish')
    names = ('tench', 'Tinca tinca', 'goldfish', '1')
    assert [detector.label_of(name) for name in names] == [0, 0, 1, 1]
    with pytest.raises(InputError, match="did you mean 'goldfish'"):
        detector.label_of('goldfisch')


def test_near_names_of_a_missing_image_are_listed(photo):
    with pytest.raises(InputError, match=r"did you mean 'photo\.png'"):
        read_image(photo.replace('photo.png', 'foto.png'))


def test_a_model_of_a_config_without_a_file_has_a_name():
    cfg = read_config(DIGITS, {'model.backbone.init_cfg': None})
    assert Predictor(Config(cfg.to_dict())).name == 'model'
    assert Predictor(cfg).name == 'faster_rcnn_r50_cbam_digits'
