"""Grad-CAM: heat where the head reads, through the real heads of detectors."""

from __future__ import annotations

import shlex
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


class OnePlace(nn.Module):
    """A detector whose score reads one place of its feature map."""

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
    made = SimpleNamespace(model=model, name='toy', name_of=str)
    made.predict = lambda prepared: gradcam.predictions_of(
        model(**prepared.data, mode='predict')[0]
    )
    return made, prepared


@pytest.mark.parametrize('method', ['hirescam', 'layercam', 'elementwise'])
@pytest.mark.parametrize(('row', 'column'), [(3, 12), (9, 5)])
def test_heat_peaks_where_the_head_reads(method, row, column):
    made, prepared = toy(OnePlace(row, column))
    (found,) = made.predict(prepared)
    heat = Explainer(made, method=method).heat(prepared, found)
    place = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (64, 64) and heat.max() == 1
    assert np.abs(np.array(place) - (4 * row + 1.5, 4 * column + 1.5)).max() <= 2
    far = np.ones_like(heat, bool)
    far[4 * row - 4 : 4 * row + 8, 4 * column - 4 : 4 * column + 8] = False
    assert not heat[far].any()


def test_gradcam_is_the_paper_s_equation():
    made, prepared = toy(OnePlace(3, 12))
    prepared.picture, prepared.size = np.zeros((16, 16, 3), np.uint8), (16, 16)
    maps = made.model.backbone(prepared.data['inputs'])
    score = torch.sigmoid(maps[0, :, 3, 12].mean() / 10)
    (grad,) = torch.autograd.grad(score, maps)
    maps, weights = maps[0].detach().numpy(), grad[0].mean((1, 2)).numpy()
    wanted = np.maximum((weights[:, None, None] * maps).sum(0), 0)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    heat = Explainer(made, method='gradcam').heat(prepared, made.predict(prepared)[0])
    np.testing.assert_allclose(heat, wanted, atol=1e-4)


def test_two_detections_have_their_heat_in_two_places(photo):
    """Through the real head and its NMS."""
    made = predictor()
    prepared = made.prepare(photo)
    found = made.predict(prepared)
    far = [row for row in found if row.corners[0] > 60 or row.corners[2] < 60]
    left = next(row for row in far if row.corners[2] < 60)
    right = next(row for row in far if row.corners[0] > 60)
    explainer = Explainer(made, ['neck.fpn_convs.0.conv'])
    for row, low, high in ((left, 0, 90), (right, 30, 120)):
        heat = explainer.heat(prepared, row)
        assert heat[:, low:high].sum() > 0.9 * heat.sum() > 0


@pytest.mark.parametrize('apart', ['zero', 'none'])
def test_levels_that_a_head_reads_apart_are_looked_at_in_turn(apart):
    """With a gradient of 0 at the last one, as torch's concatenation gives it, or with none."""

    class Levels(nn.Module):
        """A detector whose score reads the first of the backbone's two outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Module()
            self.backbone.one = nn.Conv2d(3, 4, 3, padding=1)
            self.backbone.two = nn.Conv2d(4, 4, 3, padding=1)
            self.backbone.forward = self.outputs

        def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.backbone.one(x)
            return x, self.backbone.two(x)

        def forward(self, inputs: Tensor, data_samples: list, mode: str) -> list[DetDataSample]:
            first, second = self.backbone(inputs)
            second = second if apart == 'zero' else second.detach()
            scores = torch.cat([first.mean()[None], 0 * second.mean()[None]]).sigmoid()
            sample = DetDataSample()
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[0.0, 0, 30, 30]]),
                scores=scores[:1],
                labels=torch.tensor([0]),
            )
            return [sample]

    made, prepared = toy(Levels())
    nn.init.uniform_(made.model.backbone.one.weight)
    explainer, found = Explainer(made), made.predict(prepared)[0]
    assert list(explainer.choices(prepared)) == ['backbone.two', 'backbone.one']
    assert not explainer.heat(prepared, found).any()
    name, (heat,) = heats_at_shared_layer([explainer], [prepared], [found])
    assert name == 'backbone.one' and heat.max() == 1
    if apart == 'none':
        with pytest.raises(InputError, match='no gradient of the score reaches --layer backbone'):
            Explainer(made, ['backbone.two']).heat(prepared, found)
    # Beside a model that has heat at the last output, both are looked at where both have some.
    other, _ = toy(OnePlace(3, 12))
    other.model.backbone.two = nn.Identity()
    both = [explainer, Explainer(other, ['backbone.1'])]
    name, heats = heats_at_shared_layer(
        both, [prepared, prepared], [found, other.predict(prepared)[0]]
    )
    assert name == 'backbone.two' and not heats[0].any()  # there is no such place: the first


def test_pictures_that_a_pipeline_pads_keep_their_geometry(photo):
    made = predictor(str(CONFIGS / 'rtmdet_tiny_cbam.py'))
    for one in made.model.bbox_head.rtm_reg:
        nn.init.constant_(one.bias, 2.0)  # boxes at their start have no size
    prepared = made.prepare(photo)
    assert prepared.picture.shape == (80, 120, 3) and prepared.size == (427, 640)
    assert prepared.data['inputs'].shape[2:] == (640, 640)
    assert prepared.resize_to_picture(np.ones((640, 640))).all()
    heat = Explainer(made).heat(prepared, made.predict(prepared)[0])
    assert heat.shape == (80, 120) and heat.max() == 1


def test_compiled_and_cascaded_detectors_are_explained_and_seen(photo):
    made = predictor(options={'model.backbone.plugins.0.cfg.compile': True})
    prepared = made.prepare(photo)
    assert Explainer(made).heat(prepared, made.predict(prepared)[0]).max() == 1
    assert len(gates(made.model, prepared.data)) == 16
    cascade = str(CONFIGS / 'cascade_rcnn_r50_cbam.py')
    made = Predictor(
        read_config(
            cascade,
            SMALL_IMAGES | {'model.backbone.init_cfg': None, 'model.test_cfg.rcnn.score_thr': 0.0},
        )
    )
    prepared = made.prepare(photo)
    assert Explainer(made).heat(prepared, made.predict(prepared)[0]).max() == 1


def test_a_failed_explanation_leaves_the_model_as_it_was(photo):
    place = 'model.test_cfg.rcnn.nms'
    options = {f'{place}.type': 'soft_nms', f'{place}.min_score': 0.01}
    made = predictor(options=options)
    made.model.backbone.requires_grad_(False)
    prepared = made.prepare(photo)
    with pytest.raises(InputError, match='soft-NMS') as caught:
        Explainer(made).heat(prepared, made.predict(prepared)[0])
    printed = shlex.split(str(caught.value).partition('--cfg-options ')[2])
    assert len(printed) == 3
    override(made.cfg, parse_options(printed))  # NMS alone is left, without min_score
    assert made.cfg.model.test_cfg.rcnn.nms == dict(type='nms', iou_threshold=0.5)
    assert not any(one.requires_grad for one in made.model.backbone.parameters())
    assert not any(one._forward_hooks for one in made.model.neck.modules())
    assert not made.model.backbone.layer4._forward_hooks


def test_models_of_other_classes_are_not_compared(photo):
    made, other = predictor(), predictor()
    other.classes = (*made.classes[:3], 'tree', *made.classes[4:])
    with pytest.raises(InputError, match=r'other classes than .*: class 3 is tree, not three'):
        gradcam.gradcam_page(photo, [Explainer(made), Explainer(other)])


def test_random_weights_change_the_map():
    made, prepared = toy(OnePlace(3, 12))
    other, _ = toy(OnePlace(3, 12))
    nn.init.normal_(other.model.backbone[0].weight)
    heats = [
        Explainer(one, method='gradcam').heat(prepared, one.predict(prepared)[0])
        for one in (made, other)
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
    made = predictor(config, {} if 'ssd' in config else SMALL_IMAGES)
    prepared = made.prepare(photo)
    wanted = made.predict(prepared)[0]
    explainer = Explainer(made, target=target)
    heat = explainer.heat(prepared, wanted)
    assert heat.shape == (80, 120) and heat.min() >= 0 and 0.5 < heat.max() <= 1
    if layer is not None:
        assert next(iter(explainer.choices(prepared))) == layer
    assert float(made.predict(prepared)[0].score) == pytest.approx(float(wanted.score), abs=1e-6)
    assert all(one.grad is None for one in made.model.parameters())


@pytest.mark.parametrize('method', METHODS)
def test_every_method_of_the_list_makes_a_map(method, tool):
    made, prepared = toy(OnePlace(3, 12))
    heat = Explainer(made, ['backbone.0', 'backbone.1'], method).heat(
        prepared, made.predict(prepared)[0]
    )
    assert heat.shape == (64, 64) and np.isfinite(heat).all() and heat.max() > 0
    assert list(METHODS) == tool.module.METHODS


def test_frozen_layers_are_explained_and_stay_frozen(photo):
    made = predictor()
    made.model.backbone.requires_grad_(False)
    prepared = made.prepare(photo)
    assert Explainer(made, ['backbone.layer1']).heat(prepared, made.predict(prepared)[0]).max() > 0
    assert not any(one.requires_grad for one in made.model.backbone.parameters())


def test_classifier_is_explained_by_class(photo):
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 3, stride=2)
            self.fc = nn.Linear(8, 5)

        def forward(self, inputs: Tensor, data_samples: list, mode: str) -> list[BaseDataElement]:
            scores = self.fc(self.backbone(inputs).mean((2, 3)))[0].softmax(0)
            return [BaseDataElement(pred_score=scores)]

    made, prepared = toy(Classifier())
    found = {row.label: row for row in made.predict(prepared)}
    scores = [float(row.score.detach()) for row in made.predict(prepared)]
    assert len(found) == 5 and scores == sorted(scores, reverse=True)
    one, other = (Explainer(made).heat(prepared, found[label]) for label in (0, 3))
    assert np.abs(one - other).max() > 0.1
    with pytest.raises(InputError, match='a classifier has no boxes'):
        Explainer(made, target='box').heat(prepared, found[0])


def test_default_layers_make_the_backbone_s_maps_from_the_last(photo):
    made = predictor()
    layers = feature_layers(made, made.prepare(photo))
    assert default_layers(layers) == [f'backbone.layer{n}' for n in (4, 3, 2, 1)]
    assert 'rpn_head.rpn_conv' not in layers  # it runs on every level
