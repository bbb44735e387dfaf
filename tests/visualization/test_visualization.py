"""Attention maps, Grad-CAM, precision against recall: numbers, pictures, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from torch import Tensor, nn

from cbam_det.apis.inference import (
    Found,
    Subject,
    View,
    default_layers,
    feature_layers,
    read_image,
    same,
)
from cbam_det.models.layers import CBAM
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError
from cbam_det.visualization import figures, gradcam
from cbam_det.visualization.attention import attention_page, gates, page
from cbam_det.visualization.detections import dataset_of
from cbam_det.visualization.focus import difference, focus
from cbam_det.visualization.gradcam import METHODS, Explainer, in_box, inside, together
from cbam_det.visualization.precision import ground_truth, mean, precision

from ..conftest import CONFIGS, in_process

pytestmark = pytest.mark.usefixtures('one_thread')
DIGITS = str(CONFIGS / 'faster_rcnn_r50_cbam_digits.py')
SMALL_IMAGES = {'test_dataloader.dataset.pipeline.1.scale': (96, 96)}


def subject(config: str = DIGITS, options: dict | None = None) -> Subject:
    """A model at its start, without pretrained weights."""
    torch.manual_seed(0)
    options = {'model.backbone.init_cfg': None, **(options or {})}
    if 'digits' not in config:
        options['model.test_cfg.score_thr'] = 0.0
    made = Subject(read_config(config, options))
    for name, one in made.model.named_parameters():
        if 'cls' in name and one.dim() > 1:  # at its start a head gives all classes one score
            nn.init.normal_(one, 0, 0.01)
        elif name.endswith(('bn2.weight', 'bn3.weight')):  # and residual branches end in 0
            nn.init.ones_(one)
    return made


@pytest.fixture(scope='module')
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture of 120 x 80 pixels."""
    path = tmp_path_factory.mktemp('photo') / 'photo.png'
    values = np.random.default_rng(0).integers(256, size=(80, 120, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return str(path)


@pytest.fixture(scope='module')
def tool() -> Callable[..., int]:
    return in_process('visualize')


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


def toy(model: nn.Module) -> tuple[SimpleNamespace, View]:
    inputs = torch.rand(1, 3, 16, 16)
    view = View(
        np.zeros((64, 64, 3), np.uint8),
        dict(inputs=inputs, data_samples=[DetDataSample()]),
        (16, 16),
    )
    made = SimpleNamespace(model=model, name='toy', name_of=str)
    made.look = lambda view: gradcam.findings(model(**view.data, mode='predict')[0])
    return made, view


@pytest.mark.parametrize('method', ['hirescam', 'layercam', 'elementwise'])
@pytest.mark.parametrize(('row', 'column'), [(3, 12), (9, 5)])
def test_heat_peaks_where_the_head_reads(method, row, column):
    made, view = toy(OnePlace(row, column))
    (found,) = made.look(view)
    heat = Explainer(made, method=method).heat(view, found)
    place = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (64, 64) and heat.max() == 1
    assert np.abs(np.array(place) - (4 * row + 1.5, 4 * column + 1.5)).max() <= 2
    far = np.ones_like(heat, bool)
    far[4 * row - 4 : 4 * row + 8, 4 * column - 4 : 4 * column + 8] = False
    assert not heat[far].any()


def test_gradcam_is_the_paper_s_equation():
    made, view = toy(OnePlace(3, 12))
    view.picture, view.size = np.zeros((16, 16, 3), np.uint8), (16, 16)
    maps = made.model.backbone(view.data['inputs'])
    score = torch.sigmoid(maps[0, :, 3, 12].mean() / 10)
    (grad,) = torch.autograd.grad(score, maps)
    maps, weights = maps[0].detach().numpy(), grad[0].mean((1, 2)).numpy()
    wanted = np.maximum((weights[:, None, None] * maps).sum(0), 0)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    heat = Explainer(made, method='gradcam').heat(view, made.look(view)[0])
    np.testing.assert_allclose(heat, wanted, atol=1e-4)


def test_two_detections_have_their_heat_in_two_places(photo):
    """Through the real head and its NMS."""
    made = subject()
    view = made.see(photo)
    found = made.look(view)
    far = [row for row in found if row.corners[0] > 60 or row.corners[2] < 60]
    left = next(row for row in far if row.corners[2] < 60)
    right = next(row for row in far if row.corners[0] > 60)
    explainer = Explainer(made, ['neck.fpn_convs.0.conv'])
    for row, low, high in ((left, 0, 90), (right, 30, 120)):
        heat = explainer.heat(view, row)
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

    made, view = toy(Levels())
    nn.init.uniform_(made.model.backbone.one.weight)
    explainer, found = Explainer(made), made.look(view)[0]
    assert list(explainer.choices(view)) == ['backbone.two', 'backbone.one']
    assert not explainer.heat(view, found).any()
    name, (heat,) = together([explainer], [view], [found])
    assert name == 'backbone.one' and heat.max() == 1
    if apart == 'none':
        with pytest.raises(InputError, match='no gradient of the score reaches --layer backbone'):
            Explainer(made, ['backbone.two']).heat(view, found)
    # Beside a model that has heat at the last output, both are looked at where both have some.
    other, _ = toy(OnePlace(3, 12))
    other.model.backbone.two = nn.Identity()
    both = [explainer, Explainer(other, ['backbone.1'])]
    name, heats = together(both, [view, view], [found, other.look(view)[0]])
    assert name == 'backbone.two' and not heats[0].any()  # there is no such place: the first


def test_pictures_that_a_pipeline_pads_keep_their_geometry(photo):
    made = subject(str(CONFIGS / 'rtmdet_tiny_cbam.py'))
    for one in made.model.bbox_head.rtm_reg:
        nn.init.constant_(one.bias, 2.0)  # boxes at their start have no size
    view = made.see(photo)
    assert view.picture.shape == (80, 120, 3) and view.size == (427, 640)
    assert view.data['inputs'].shape[2:] == (640, 640)
    assert view.put(np.ones((640, 640))).all()
    heat = Explainer(made).heat(view, made.look(view)[0])
    assert heat.shape == (80, 120) and heat.max() == 1


def test_a_picture_that_a_pipeline_cuts_is_shown_as_the_model_sees_it(photo):
    sample = BaseDataElement(metainfo=dict(img_shape=(48, 48), scale_factor=(0.8, 0.8)))
    packed = dict(inputs=torch.arange(3 * 48 * 48).reshape(3, 48, 48) % 255)
    model = SimpleNamespace(
        data_preprocessor=lambda batch, _: dict(
            inputs=torch.zeros(1, 3, 48, 48), data_samples=[sample]
        )
    )
    view = View.of(read_image(photo), packed, model)
    assert view.picture.shape == (48, 48, 3)
    assert (view.picture[..., 0] == packed['inputs'][2].numpy()).all()  # BGR to RGB


def test_compiled_and_cascaded_detectors_are_explained_and_seen(photo):
    made = subject(options={'model.backbone.plugins.0.cfg.compile': True})
    view = made.see(photo)
    assert Explainer(made).heat(view, made.look(view)[0]).max() == 1
    assert len(gates(made.model, view.data)) == 16
    cascade = str(CONFIGS / 'cascade_rcnn_r50_cbam.py')
    made = Subject(
        read_config(
            cascade,
            SMALL_IMAGES | {'model.backbone.init_cfg': None, 'model.test_cfg.rcnn.score_thr': 0.0},
        )
    )
    view = made.see(photo)
    assert Explainer(made).heat(view, made.look(view)[0]).max() == 1


def test_a_failed_explanation_leaves_the_model_as_it_was(photo):
    options = {'model.test_cfg.rcnn.nms.type': 'soft_nms'}
    made = subject(options=options)
    made.model.backbone.requires_grad_(False)
    view = made.see(photo)
    with pytest.raises(InputError, match=r'model\.test_cfg\.rcnn\.nms\.type'):
        Explainer(made).heat(view, made.look(view)[0])
    assert not any(one.requires_grad for one in made.model.backbone.parameters())
    assert not any(one._forward_hooks for one in made.model.neck.modules())
    assert not made.model.backbone.layer4._forward_hooks


def test_models_of_other_classes_are_not_compared(photo):
    made, other = subject(), subject()
    other.classes = (*made.classes[:3], 'tree', *made.classes[4:])
    with pytest.raises(InputError, match=r'other classes than .*: class 3 is tree, not three'):
        gradcam.gradcam_page(photo, [Explainer(made), Explainer(other)])


def test_random_weights_change_the_map():
    made, view = toy(OnePlace(3, 12))
    other, _ = toy(OnePlace(3, 12))
    nn.init.normal_(other.model.backbone[0].weight)
    heats = [
        Explainer(one, method='gradcam').heat(view, one.look(view)[0]) for one in (made, other)
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
    made = subject(config, {} if 'ssd' in config else SMALL_IMAGES)
    view = made.see(photo)
    wanted = made.look(view)[0]
    explainer = Explainer(made, target=target)
    heat = explainer.heat(view, wanted)
    assert heat.shape == (80, 120) and heat.min() >= 0 and 0.5 < heat.max() <= 1
    if layer is not None:
        assert next(iter(explainer.choices(view))) == layer
    assert float(made.look(view)[0].score) == pytest.approx(float(wanted.score), abs=1e-6)
    assert all(one.grad is None for one in made.model.parameters())


@pytest.mark.parametrize('method', METHODS)
def test_every_method_of_the_list_makes_a_map(method, tool):
    made, view = toy(OnePlace(3, 12))
    heat = Explainer(made, ['backbone.0', 'backbone.1'], method).heat(view, made.look(view)[0])
    assert heat.shape == (64, 64) and np.isfinite(heat).all() and heat.max() > 0
    assert list(METHODS) == tool.module.METHODS


def test_frozen_layers_are_explained_and_stay_frozen(photo):
    made = subject()
    made.model.backbone.requires_grad_(False)
    view = made.see(photo)
    assert Explainer(made, ['backbone.layer1']).heat(view, made.look(view)[0]).max() > 0
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

    made, view = toy(Classifier())
    found = {row.label: row for row in made.look(view)}
    scores = [float(row.score.detach()) for row in made.look(view)]
    assert len(found) == 5 and scores == sorted(scores, reverse=True)
    one, other = (Explainer(made).heat(view, found[label]) for label in (0, 3))
    assert np.abs(one - other).max() > 0.1
    with pytest.raises(InputError, match='a classifier has no boxes'):
        Explainer(made, target='box').heat(view, found[0])


def test_share_of_heat_and_peak_are_those_inside_the_box():
    heat = np.zeros((10, 20))
    heat[2, 3], heat[7, 15] = 3, 1
    assert inside(heat, np.array([0, 0, 10, 5])) == (0.75, True)
    assert inside(heat, np.array([10, 5, 20, 10])) == (0.25, False)
    assert inside(heat, np.array([3, 2, 4, 3])) == (0.75, True)  # the pixel's own box
    assert inside(np.ones((10, 20)), np.array([0, 0, 10, 10])) == (0.5, True)
    assert inside(np.zeros((10, 20)), np.array([0, 0, 20, 10])) is None
    shown = in_box(heat, np.array([10.5, 5.0, 20.0, 10.0]))
    assert shown[7, 15] == 1 and shown.sum() == 1


def test_paired_difference_has_its_interval_around_it():
    assert difference(np.full(9, 0.25)) == [0.25, 0.25, 0.25]
    middle, low, high = difference(np.random.default_rng(1).normal(0.3, 0.1, 400))
    assert low < middle < high and middle == pytest.approx(0.3, abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert difference(np.array([0.1, 0.3])) == [0.2, None, None]


def test_focus_counts_objects_that_every_model_finds(digits):
    cfg = read_config(DIGITS)
    root = f'{digits}/'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = root
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = (
        f'{root}annotations/instances_val2017.json'
    )
    content = json.loads((digits / 'annotations/instances_val2017.json').read_text())
    numbers = {one['id']: at for at, one in enumerate(content['categories'])}
    boxes: dict[str, list] = {}
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        name = next(i['file_name'] for i in content['images'] if i['id'] == one['image_id'])
        box = torch.tensor([x, y, x + w, y + h])
        boxes.setdefault(name, []).append(
            Found(numbers[one['category_id']], torch.tensor(0.9), box)
        )

    for found in boxes.values():  # as good, but not sure enough
        found.append(Found(found[0].label, torch.tensor(0.2), found[0].box))

    def explainer(name: str, draw: Callable, missing: int = 0) -> SimpleNamespace:
        see = lambda path: SimpleNamespace(picture=read_image(path), name=Path(path).name)  # noqa: E731
        classes = cfg.metainfo.classes if 'metainfo' in cfg else ()
        look = lambda view: boxes[view.name][missing:]  # noqa: E731
        of = SimpleNamespace(name=name, see=see, look=look, classes=tuple(classes))
        return SimpleNamespace(
            subject=of,
            heat=lambda view, found, choice: draw(view, found),
            choices=lambda view: {'layer': []},
            method='hirescam',
            target='score',
        )

    def only_inside(view: SimpleNamespace, found: Found) -> np.ndarray:
        heat = np.zeros(view.picture.shape[:2])
        x1, y1, x2, y2 = found.corners.round().astype(int)
        heat[y1:y2, x1:x2] = 1
        return heat

    even = explainer('even', lambda view, found: np.ones(view.picture.shape[:2]))
    record = focus(cfg, [even, explainer('even', only_inside, missing=1)], 'val', 5)
    images = sum(len(found) > 2 for found in boxes.values())
    objects = sum(len(found) - 1 for found in boxes.values())
    assert (record['images'], record['objects']) == (images, objects - len(boxes))
    assert record['left_out'] == len(boxes)
    assert record['layers'] == {'layer': record['objects']}
    rows = record['rows']
    assert list(rows) == ['even', 'even (2)']
    assert rows['even']['energy'][0] == pytest.approx(record['chance'], abs=1e-4)
    assert rows['even (2)']['energy'][0] > 0.9 and rows['even (2)']['pointing'] == [1, 0]
    more = rows['even (2)']['energy'][0] - rows['even']['energy'][0]
    assert rows['even (2)']['energy_more'][0] == pytest.approx(more, abs=2e-4)
    nothing = explainer('nothing', lambda view, found: np.zeros(view.picture.shape[:2]))
    with pytest.raises(InputError, match=f'of {objects} objects in 5 images none is found'):
        focus(cfg, [even, nothing], 'val', 5)
    with pytest.raises(InputError, match='none is found by every model'):
        focus(cfg, [even, explainer('blind', only_inside, missing=100)], 'val', 5)


def test_gates_are_what_every_cbam_multiplies_with(photo):
    made = subject(options={'model.backbone.plugins.0.cfg.start': 'paper'})
    for one in made.model.modules():  # away from the start, where a spatial gate is even
        if isinstance(one, CBAM):
            nn.init.normal_(one.spatial_gate.norm.weight)
    view = made.see(photo)
    products = []
    handles = [
        one.register_forward_hook(lambda m, args, out: products.append((args[0], out.clone())))
        for one in made.model.modules()
        if isinstance(one, CBAM)
    ]
    seen = gates(made.model, view.data)
    for handle in handles:
        handle.remove()
    assert len(seen) == 16 == len(products)
    for one, (x, out) in zip(seen, products, strict=True):
        channel, spatial = (torch.from_numpy(value) for value in (one.channel, one.spatial))
        torch.testing.assert_close(out, x * channel[:, :, None, None] * spatial[:, None])
        assert spatial.std() > 0 and not one.identity
    assert not any(one._forward_pre_hooks for one in made.model.modules() if isinstance(one, CBAM))


def test_attention_page_shows_each_block_and_each_stage(photo):
    made = subject()
    figure = attention_page(made, photo)
    titles = [axis.get_title() for part in figure.subfigs for axis in part.axes]
    # From the identity start every weight is 1, and no noise is drawn as a pattern.
    assert 'layer1.0.bn3\n1.000 everywhere' in titles
    assert 'layer4.2.bn3\n1.000 everywhere' in titles and 'image; the model is untrained' in titles
    assert {f'backbone.layer{n}' for n in range(1, 5)} <= set(titles)
    for names, count in (
        (['backbone.inserted.layer3/1/bn3.cbam'], 1),
        (['layer4'], 3),
        (['layer4.1.bn3', 'layer*.0.*'], 5),
    ):
        chosen = attention_page(made, photo, names)
        titles = [axis.get_title() for part in chosen.subfigs for axis in part.axes]
        assert sum(title.startswith('layer') for title in titles) == count


def test_attention_is_seen_in_necks_and_on_regions_and_without_a_spatial_gate(photo, tmp_path):
    extractor = dict(
        type='WithPlugins',
        base_type='SingleRoIExtractor',
        plugins=[dict(cfg=dict(type='CBAM', ratio=4), after='.')],
    )
    neck = dict(
        type='WithPlugins',
        base_type='FPN',
        plugins=[dict(cfg=dict(type='CBAM', order='channel'), after='fpn_convs.*')],
    )
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')
    cfg.merge_from_dict(dict(model=dict(neck=neck, roi_head=dict(bbox_roi_extractor=extractor))))
    cfg.custom_imports = dict(imports=['cbam_det'])
    made = Subject(cfg)
    view = made.see(photo)
    seen = gates(made.model, view.data)
    assert [one.spatial is None for one in seen] == [True] * 4 + [False]
    regions = seen[-1].spatial
    assert len(regions) > 1 and regions.shape[1:] == (7, 7)
    figures.save(page(view, seen), tmp_path / 'page.png')
    figures.save(page(view, seen[:4]), tmp_path / 'se.png')


def test_padding_is_cut_before_values_meet_the_picture():
    data = dict(inputs=torch.zeros(1, 3, 64, 64))
    view = View(np.zeros((20, 40, 3), np.uint8), data, (32, 64))
    values = np.zeros((64, 64))
    values[32:] = 1  # below the image
    assert not view.put(values).any()
    values[:16] = 1
    put = view.put(values)
    assert put.shape == (20, 40) and put[:9].all() and not put[11:].any()


def test_found_again_is_the_same_class_with_the_most_overlap():
    box = torch.tensor([0.0, 0, 10, 10])
    wanted = Found(1, torch.tensor(0.5), box)
    near, nearer = (Found(1, torch.tensor(0.1), box + shift) for shift in (2, 1))
    other, far = Found(2, torch.tensor(0.9), box), Found(1, torch.tensor(0.9), box + 8)
    assert same([far, other, near, nearer], wanted) is nearer
    assert same([far, other], wanted) is None and same([], wanted) is None


def test_default_layers_make_the_backbone_s_maps_from_the_last(photo):
    made = subject()
    layers = feature_layers(made, made.see(photo))
    assert default_layers(layers) == [f'backbone.layer{n}' for n in (4, 3, 2, 1)]
    assert 'rpn_head.rpn_conv' not in layers  # it runs on every level


def test_precision_of_known_detections(digits):
    cfg = read_config(DIGITS)
    cfg.test_dataloader.dataset.data_root = f'{digits}/'
    cfg.test_evaluator.ann_file = f'{digits}/annotations/instances_val2017.json'
    truth = ground_truth(dataset_of(cfg, 'test'))
    objects = truth.dataset['annotations']
    perfect = [
        dict(score=0.9, **{key: one[key] for key in ('image_id', 'category_id', 'bbox')})
        for one in objects
    ]
    present = {one['category_id'] for one in objects}
    values = precision(truth, perfect)
    assert all(np.allclose(values[:, :, k], 1) for k in present)
    assert all((values[:, :, k] == -1).all() for k in set(range(10)) - present)
    assert np.allclose(mean(values), 1)
    # Shifted by 0.35 of the width: an IoU of 0.48, then of 0.54.
    for shift, wanted in ((0.35, 0), (0.3, 1)):
        moved = [dict(one, bbox=[*one['bbox']]) for one in perfect]
        for one in moved:
            one['bbox'][0] += shift * one['bbox'][2]
        values = precision(truth, moved)
        assert np.allclose(mean(values)[0], wanted) and not mean(values)[1].any()
    nothing = precision(truth, [])
    assert all((nothing[:, :, k] == -(k not in present)).all() for k in range(10))


def test_commands_write_their_pictures(tool, photo, digits, tmp_path, capsys):
    made = subject()
    for one in made.model.modules():
        if isinstance(one, CBAM):
            nn.init.normal_(one.spatial_gate.norm.weight)
    checkpoint = tmp_path / 'one.pth'
    torch.save(dict(state_dict=made.model.state_dict()), checkpoint)
    baseline = subject(str(CONFIGS / 'faster_rcnn_r50_digits.py'))
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=baseline.model.state_dict()), other)
    against = ('--against', 'faster_rcnn_r50_digits', other)
    before = figures.plt.get_fignums()
    options = {
        'attention': (photo, DIGITS, checkpoint, '--layer', 'backbone.inserted.layer2/0/bn3.cbam'),
        'gradcam': (photo, DIGITS, checkpoint, *against, '--score', 0, '--count', 2),
        'pr': (DIGITS, checkpoint, *against, '--data-root', digits),
    }
    for command, args in options.items():
        out = tmp_path / f'{command}.png'
        assert tool(command, *args, '--out', out) == 0, capsys.readouterr().err
        with Image.open(out) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert('RGB').getcolors(10**7)) > 20
    assert figures.plt.get_fignums() == before  # every figure is closed
    image = Image.open(tmp_path / 'gradcam.png')
    assert image.width > 700  # the picture and both models


@pytest.mark.parametrize(
    ('args', 'said'),
    [
        (('attention', 'no.jpg', DIGITS), 'no image no.jpg'),
        (('attention', __file__, DIGITS), 'cannot be read as an image'),
        (('attention', 'PHOTO', 'faster_rcnn_r50_digits'), 'has no CBAM to look at'),
        (('attention', 'PHOTO', DIGITS, '--layer', 'layer9'), '--layer layer9 is no CBAM'),
        (('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 1.1), 'lower --score'),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'backbone.layer5'),
            'is no layer of this model; near: backbone.layer',
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--score', 0, '--layer', 'neck'),
            'makes no feature map, or several',
        ),
        (
            ('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--class', 'fuor'),
            "knows no class 'fuor'; near: four",
        ),
        (('gradcam', 'PHOTO', DIGITS, 'CHECKPOINT', '--count', 0, '--score', 0), '--count 0'),
        (('gradcam', 'PHOTO', DIGITS, 'none.pth'), 'no checkpoint none.pth'),
        (('focus', DIGITS, 'CHECKPOINT', '--out', 'a.png'), 'this command writes .json'),
        (('report', 'nowhere', '--out', 'a.png'), 'this command writes .html'),
        (('report', 'nowhere'), 'nowhere holds no log of a training'),
        (('attention', 'PHOTO', DIGITS, '--out', 'a.txt'), 'end it in .png'),
    ],
)
def test_mistakes_end_in_one_line_with_the_remedy(args, said, tool, photo, tmp_path, capsys):
    checkpoint = tmp_path / 'one.pth'
    if 'CHECKPOINT' in args:
        torch.save(dict(state_dict=subject().model.state_dict()), checkpoint)
    names = {'PHOTO': photo, 'CHECKPOINT': checkpoint}
    capsys.readouterr()
    assert tool(*(names.get(one, one) for one in args)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and said in errors[0]


def test_class_is_found_by_any_of_its_names_and_by_its_number():
    made = subject()
    made.classes = ('tench, Tinca tinca', 'goldfish')
    assert [made.label_of(name) for name in ('tench', 'Tinca tinca', 'goldfish', '1')] == [
        0,
        0,
        1,
        1,
    ]
    with pytest.raises(InputError, match='near: goldfish'):
        made.label_of('goldfisch')


def test_further_base_writes_attention_maps():
    text = '_base_ = [{!r}, {!r}]'
    bases = (DIGITS, str(CONFIGS / '_base_' / 'attention_maps.py'))
    cfg = Config.fromstring(text.format(*bases), '.py')
    assert cfg.custom_hooks == [dict(type='AttentionMapsHook', count=2)]


def test_near_names_of_a_missing_image_are_listed(photo):
    with pytest.raises(InputError, match=r'near: photo\.png'):
        read_image(photo.replace('photo.png', 'foto.png'))
