"""Grad-CAM: the heat is where the head reads, through the real heads of detectors."""

from __future__ import annotations

import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from cbam_det.apis.inference import Predictor, PreparedImage, default_layers, feature_layers
from cbam_det.utils.config import override, read_config
from cbam_det.utils.errors import InputError
from cbam_det.utils.options import parse_options
from cbam_det.visualization import gradcam
from cbam_det.visualization.attention import gates
from cbam_det.visualization.gradcam import METHODS, Explainer, heats_at_shared_layer

from ..conftest import CONFIGS
from .untrained import DIGITS, predictor

pytestmark = pytest.mark.usefixtures('one_thread')
SMALL_IMAGES = {'test_dataloader.dataset.pipeline.1.scale': (96, 96)}


class OnePosition(nn.Module):
    """A detector whose score depends on one position of its feature map."""

    def __init__(self, row: int, column: int, spread: float = 1.0) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        nn.init.uniform_(self.backbone[0].weight, 0, spread)
        self.row, self.column = row, column

    def forward(self, inputs: Tensor, data_samples: list, mode: str) -> list[DetDataSample]:
        score = torch.sigmoid(self.backbone(inputs)[0, :, self.row, self.column].mean() / 10)
        sample = DetDataSample()
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([[0.0, 0, 30, 30]]), scores=score[None], labels=torch.tensor([0])
        )
        return [sample]


def toy(model: nn.Module) -> tuple[SimpleNamespace, PreparedImage]:
    inputs = torch.rand(1, 3, 16, 16)
    prepared = PreparedImage(
        np.zeros((64, 64, 3), np.uint8),
        dict(inputs=inputs, data_samples=[DetDataSample()]),
        (16, 16),
    )
    detector = SimpleNamespace(model=model, name='toy', name_of=str)
    detector.predict = lambda prepared: gradcam.predictions_of(
        model(**prepared.data, mode='predict')[0]
    )
    return detector, prepared


@pytest.mark.parametrize('method', ['hirescam', 'layercam', 'elementwise'])
@pytest.mark.parametrize(('row', 'column'), [(3, 12), (9, 5)])
def test_heat_peaks_where_the_head_reads(method, row, column):
    detector, prepared = toy(OnePosition(row, column))
    (prediction,) = detector.predict(prepared)
    heat = Explainer(detector, method=method).heat(prepared, prediction)
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (64, 64) and heat.max() == 1
    assert np.abs(np.array(peak) - (4 * row + 1.5, 4 * column + 1.5)).max() <= 2
    far = np.ones_like(heat, bool)
    far[4 * row - 4 : 4 * row + 8, 4 * column - 4 : 4 * column + 8] = False
    assert not heat[far].any()


def test_gradcam_is_the_paper_s_equation():
    detector, prepared = toy(OnePosition(3, 12))
    prepared.picture, prepared.size = np.zeros((16, 16, 3), np.uint8), (16, 16)
    maps = detector.model.backbone(prepared.data['inputs'])
    score = torch.sigmoid(maps[0, :, 3, 12].mean() / 10)
    (grad,) = torch.autograd.grad(score, maps)
    maps, weights = maps[0].detach().numpy(), grad[0].mean((1, 2)).numpy()
    expected = np.maximum((weights[:, None, None] * maps).sum(0), 0)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    heat = Explainer(detector, method='gradcam').heat(prepared, detector.predict(prepared)[0])
    np.testing.assert_allclose(heat, expected, atol=1e-4)


def test_two_detections_have_their_heat_in_two_places(photo):
    """Through the real head and its NMS."""
    detector = predictor()
    prepared = detector.prepare(photo)
    predictions = detector.predict(prepared)
    left = next(prediction for prediction in predictions if prediction.corners[2] < 60)
    right = next(prediction for prediction in predictions if prediction.corners[0] > 60)
    explainer = Explainer(detector, ['neck.fpn_convs.0.conv'])
    for prediction, low, high in ((left, 0, 90), (right, 30, 120)):
        heat = explainer.heat(prepared, prediction)
        assert heat[:, low:high].sum() > 0.9 * heat.sum() > 0


@pytest.mark.parametrize('gradient', ['zero', 'none'])
def test_levels_without_gradient_are_skipped(gradient):
    """The gradient at the last level is 0, as after torch's concatenation, or does not exist."""

    class Levels(nn.Module):
        """A detector whose score depends on the first of the backbone's two outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Module()
            self.backbone.first = nn.Conv2d(3, 4, 3, padding=1)
            self.backbone.second = nn.Conv2d(4, 4, 3, padding=1)
            self.backbone.forward = self.outputs

        def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.backbone.first(x)
            return x, self.backbone.second(x)

        def forward(self, inputs: Tensor, data_samples: list, mode: str) -> list[DetDataSample]:
            first, second = self.backbone(inputs)
            second = second if gradient == 'zero' else second.detach()
            scores = torch.cat([first.mean()[None], 0 * second.mean()[None]]).sigmoid()
            sample = DetDataSample()
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[0.0, 0, 30, 30]]),
                scores=scores[:1],
                labels=torch.tensor([0]),
            )
            return [sample]

    detector, prepared = toy(Levels())
    nn.init.uniform_(detector.model.backbone.first.weight)
    explainer, prediction = Explainer(detector), detector.predict(prepared)[0]
    assert list(explainer.choices(prepared)) == ['backbone.second', 'backbone.first']
    assert not explainer.heat(prepared, prediction).any()
    name, (heat,) = heats_at_shared_layer([explainer], [prepared], [prediction])
    assert name == 'backbone.first' and heat.max() == 1
    if gradient == 'none':
        with pytest.raises(InputError, match='no gradient of the score reaches --layer backbone'):
            Explainer(detector, ['backbone.second']).heat(prepared, prediction)
    # Together with a model that has heat at the last output only, there is no common layer.
    other, _ = toy(OnePosition(3, 12))
    other.model.backbone.second = nn.Identity()
    both = [explainer, Explainer(other, ['backbone.1'])]
    name, heats = heats_at_shared_layer(
        both, [prepared, prepared], [prediction, other.predict(prepared)[0]]
    )
    assert name == 'backbone.second' and not heats[0].any()  # the first choice


def test_pictures_that_a_pipeline_pads_keep_their_geometry(photo):
    detector = predictor(str(CONFIGS / 'rtmdet_tiny_cbam.py'))
    for layer in detector.model.bbox_head.rtm_reg:
        nn.init.constant_(layer.bias, 2.0)  # untrained boxes have no size
    prepared = detector.prepare(photo)
    assert prepared.picture.shape == (80, 120, 3) and prepared.size == (427, 640)
    assert prepared.data['inputs'].shape[2:] == (640, 640)
    assert prepared.resize_to_picture(np.ones((640, 640))).all()
    heat = Explainer(detector).heat(prepared, detector.predict(prepared)[0])
    assert heat.shape == (80, 120) and heat.max() == 1


def test_compiled_and_cascaded_detectors_have_heat_and_attention(photo):
    detector = predictor(options={'model.backbone.plugins.0.cfg.compile': True})
    prepared = detector.prepare(photo)
    assert Explainer(detector).heat(prepared, detector.predict(prepared)[0]).max() == 1
    assert len(gates(detector.model, prepared.data)) == 16
    cascade = str(CONFIGS / 'cascade_rcnn_r50_cbam.py')
    detector = Predictor(
        read_config(
            cascade,
            SMALL_IMAGES | {'model.backbone.init_cfg': None, 'model.test_cfg.rcnn.score_thr': 0.0},
        )
    )
    prepared = detector.prepare(photo)
    assert Explainer(detector).heat(prepared, detector.predict(prepared)[0]).max() == 1


def test_a_failed_explanation_leaves_the_model_as_it_was(photo):
    key = 'model.test_cfg.rcnn.nms'
    options = {f'{key}.type': 'soft_nms', f'{key}.min_score': 0.01}
    detector = predictor(options=options)
    detector.model.backbone.requires_grad_(False)
    prepared = detector.prepare(photo)
    with pytest.raises(InputError, match='soft-NMS') as caught:
        Explainer(detector).heat(prepared, detector.predict(prepared)[0])
    printed = shlex.split(str(caught.value).partition('--cfg-options ')[2])
    assert len(printed) == 3
    override(detector.cfg, parse_options(printed))  # NMS replaces soft-NMS, without min_score
    assert detector.cfg.model.test_cfg.rcnn.nms == dict(type='nms', iou_threshold=0.5)
    assert not any(parameter.requires_grad for parameter in detector.model.backbone.parameters())
    assert not any(module._forward_hooks for module in detector.model.neck.modules())
    assert not detector.model.backbone.layer4._forward_hooks


def test_models_of_other_classes_are_not_compared(photo):
    detector, other = predictor(), predictor()
    other.classes = (*detector.classes[:3], 'tree', *detector.classes[4:])
    with pytest.raises(InputError, match=r'differ from those of .*: class 3 is tree, not three'):
        gradcam.gradcam_page(photo, [Explainer(detector), Explainer(other)])


def test_random_weights_change_the_map():
    detector, prepared = toy(OnePosition(3, 12))
    other, _ = toy(OnePosition(3, 12))
    nn.init.normal_(other.model.backbone[0].weight)
    heats = [
        Explainer(model, method='gradcam').heat(prepared, model.predict(prepared)[0])
        for model in (detector, other)
    ]
    assert np.abs(heats[0] - heats[1]).max() > 0.1


@pytest.mark.parametrize(
    ('config', 'layer'),
    [
        (DIGITS, 'backbone.layer4'),
        (str(CONFIGS / 'retinanet_r18_cbam.py'), 'backbone.layer4'),
        (str(CONFIGS / 'ssd300_vgg16_cbam.py'), None),
        (str(CONFIGS / 'fcos_r50_cbam.py'), 'backbone.layer4'),
    ],
)
@pytest.mark.parametrize('target', ['score', 'box'])
def test_two_stage_and_one_stage_detectors_are_explained_through_their_real_head(
    config, layer, target, photo
):
    detector = predictor(config, {} if 'ssd' in config else SMALL_IMAGES)
    prepared = detector.prepare(photo)
    prediction = detector.predict(prepared)[0]
    explainer = Explainer(detector, target=target)
    heat = explainer.heat(prepared, prediction)
    assert heat.shape == (80, 120) and heat.min() >= 0 and 0.5 < heat.max() <= 1
    if layer is not None:
        assert next(iter(explainer.choices(prepared))) == layer
    score = float(detector.predict(prepared)[0].score)
    assert score == pytest.approx(float(prediction.score), abs=1e-6)
    assert all(parameter.grad is None for parameter in detector.model.parameters())


@pytest.mark.parametrize('method', METHODS)
def test_every_method_of_the_list_makes_a_map(method, tool):
    detector, prepared = toy(OnePosition(3, 12))
    heat = Explainer(detector, ['backbone.0', 'backbone.1'], method).heat(
        prepared, detector.predict(prepared)[0]
    )
    assert heat.shape == (64, 64) and np.isfinite(heat).all() and heat.max() > 0
    assert list(METHODS) == tool.module.METHODS


def test_frozen_layers_are_explained_and_stay_frozen(photo):
    detector = predictor()
    detector.model.backbone.requires_grad_(False)
    prepared = detector.prepare(photo)
    assert (
        Explainer(detector, ['backbone.layer1']).heat(prepared, detector.predict(prepared)[0]).max()
        > 0
    )
    assert not any(parameter.requires_grad for parameter in detector.model.backbone.parameters())


def test_classifier_is_explained_by_class(photo):
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 3, stride=2)
            self.fc = nn.Linear(8, 5)

        def forward(self, inputs: Tensor, data_samples: list, mode: str) -> list[BaseDataElement]:
            scores = self.fc(self.backbone(inputs).mean((2, 3)))[0].softmax(0)
            return [BaseDataElement(pred_score=scores)]

    detector, prepared = toy(Classifier())
    predictions = {prediction.label: prediction for prediction in detector.predict(prepared)}
    scores = [float(prediction.score.detach()) for prediction in predictions.values()]
    assert len(predictions) == 5 and scores == sorted(scores, reverse=True)
    heats = [Explainer(detector).heat(prepared, predictions[label]) for label in (0, 3)]
    assert np.abs(heats[0] - heats[1]).max() > 0.1
    with pytest.raises(InputError, match='a classifier has no boxes'):
        Explainer(detector, target='box').heat(prepared, predictions[0])


def test_default_layers_are_the_backbone_s_outputs_from_the_last(photo):
    detector = predictor()
    layers = feature_layers(detector, detector.prepare(photo))
    assert default_layers(layers) == [f'backbone.layer{n}' for n in (4, 3, 2, 1)]
    assert 'rpn_head.rpn_conv' not in layers  # it runs on every level


def test_only_an_explainer_needs_the_grad_cam_package(monkeypatch):
    without = "import sys; sys.modules['pytorch_grad_cam'] = None; "
    modules = ('engine.hooks', 'visualization.run_page', 'studies.compare')  # of every training
    code = without + '; '.join(f'import cbam_det.{module}' for module in modules)
    subprocess.run([sys.executable, '-c', code], check=True)
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(InputError, match=r'Grad-CAM needs a package .*: pip install grad-cam'):
        Explainer(SimpleNamespace())
