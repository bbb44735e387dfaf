"""The list of places, their costs, and the printed config."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

from cbam_det import CBAM
from cbam_det.models.build import build_model
from cbam_det.models.costs import activation_bytes, count_costs
from cbam_det.models.places import find_places, fragment, total_cost
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

from ..conftest import CONFIGS


def small() -> Config:
    return Config.fromfile(CONFIGS / 'faster_rcnn_r50_digits.py')


def test_places_of_all_parts_have_their_shapes_and_costs():
    places = {(place.component, place.name): place for place in find_places(small(), size=64)}
    assert {component for component, _ in places} == {
        *('backbone', 'neck', 'rpn_head', 'roi_head.bbox_roi_extractor')
    }
    place = places['backbone', 'layer2.0.bn3']
    assert (place.kind, place.shape) == ('BatchNorm2d', (128, 8, 8))
    cbam = CBAM(128)
    assert place.parameters == sum(value.numel() for value in cbam.parameters())
    # Two pools through two layers, the 7x7 convolution of two maps, and two products.
    assert place.multiply_adds == 2 * 2 * 128 * 8 + 98 * 64 + 2 * 128 * 64
    regions = places['roi_head.bbox_roi_extractor', '.']
    assert (regions.shape, regions.maps) == ((64, 7, 7), 200)
    assert regions.multiply_adds == 200 * (2 * 2 * 64 * 4 + 98 * 49 + 2 * 64 * 49)
    levels = places['rpn_head', 'rpn_conv']
    assert (levels.shape, levels.maps) == ((64, 16, 16), 5)
    pixels = 16**2 + 8**2 + 4**2 + 2**2 + 1
    assert levels.multiply_adds == 5 * 2 * 2 * 64 * 4 + 98 * pixels + 2 * 64 * pixels
    assert ('backbone', '.') not in places  # its output is a tuple


def test_a_pattern_narrows_the_list():
    places = find_places(small(), 64, 'backbone:layer1.?.bn3')
    assert [place.name for place in places] == [f'layer1.{block}.bn3' for block in range(3)]
    with pytest.raises(InputError, match="no place matches 'backbone:nothing'"):
        find_places(small(), 64, 'backbone:nothing')


def test_places_of_a_classifier_are_those_of_its_backbone():
    pytest.importorskip('mmpretrain')
    cfg = read_config('tiny_imagenet/resnet18_half', announce=False)
    (place,) = find_places(cfg, 64, 'backbone:layer4.1.bn2')
    assert place.shape == (256, 2, 2) and place.maps == 1


def test_image_of_a_size_that_the_model_cannot_take_is_one_line():
    cfg = read_config('ssd300_vgg16', announce=False)
    with pytest.raises(InputError, match='SingleStageDetector cannot run on an image of 37x37 pix'):
        find_places(cfg, 37)


@pytest.mark.parametrize('channels', [1, 4])
def test_trial_images_have_the_channels_of_the_config(channels):
    cfg = small()
    # The output channels of a whole stage are only known from a forward pass.
    plugins = [dict(cfg=dict(type='CBAM'), after='layer1')]
    backbone = dict(type='WithPlugins', base_type='ResNet', plugins=plugins)
    cfg.merge_from_dict(dict(model=dict(backbone=backbone)))
    cfg.model.backbone.in_channels = channels
    assert next(place.shape[0] for place in find_places(cfg, 64, 'backbone:layer1')) == 64
    assert count_costs(cfg).multiply_adds > 0 and activation_bytes(cfg) > 0


@pytest.mark.slow
def test_printed_fragment_builds_the_choice(run, tmp_path):
    base = CONFIGS / 'faster_rcnn_r50_digits.py'
    for number, (choice, cbams) in enumerate(
        {
            'backbone:layer4.*.bn3': 3,
            'neck:fpn_convs.*': 4,
            'roi_head.bbox_roi_extractor:.': 1,
        }.items()
    ):
        printed = run('places.py', base, '--insert', choice, cwd=tmp_path).stdout
        mine = tmp_path / f'mine{number}.py'
        mine.write_text(f'_base_ = {str(base)!r}\n{printed}')
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(Config.fromfile(mine).model)
        assert sum(isinstance(module, CBAM) for module in model.modules()) == cbams


def test_printed_fragment_keeps_the_backbone_s_own_plugins():
    cfg = get_config('mmdet::gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py')
    base = build_model(cfg)
    own_keys = [name for name in base.state_dict() if 'context_block' in name]
    text = fragment(cfg, 'backbone', 'layer1.*.bn3')
    cfg.merge_from_dict(Config.fromstring(text, '.py').to_dict())
    model = build_model(cfg)
    assert own_keys == [name for name in model.state_dict() if 'context_block' in name] != []
    assert sum(isinstance(module, CBAM) for module in model.modules()) == 3


def test_fragment_reaches_the_detector_inside_another_model():
    name = 'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    cfg = get_config(f'mmdet::soft_teacher/{name}')
    text = fragment(cfg, 'backbone', ['layer1.*.bn3', 'layer2.*.bn3'])
    cfg.merge_from_dict(Config.fromstring(text, '.py').to_dict())
    assert cfg.model.detector.backbone.type == 'WithPlugins'
    assert sum(isinstance(module, CBAM) for module in build_model(cfg).modules()) == 7


def test_fragment_keeps_the_imports_of_the_base():
    cfg = small()
    cfg.custom_imports = dict(imports=['os.path'], allow_failed_imports=False)
    assert "custom_imports = dict(imports=['os.path', 'cbam_det'])" in fragment(
        cfg, 'neck', 'fpn_convs.*'
    )


def test_total_cost_is_that_of_all_places():
    places = find_places(small(), 64, 'backbone:layer?.?.bn3')
    count = sum(place.parameters for place in places)
    assert len(places) == 16 and total_cost(places).startswith(
        f'16 CBAMs, +{count / 1e6:.2f} M par'
    )
    printed = fragment(small(), 'backbone', 'layer*.*.bn3')
    assert printed.startswith(f'# 16 CBAMs, +{count / 1e6:.2f} M parameters\n')


def test_unknown_component_and_module_are_an_error():
    with pytest.raises(InputError, match='the model has no bbox_head; choose from backbone'):
        fragment(small(), 'bbox_head', '.')
    with pytest.raises(InputError, match='similar names'):
        fragment(small(), 'neck', 'fpn_conv.*')


def test_component_that_is_a_list_or_nothing_in_the_config_is_an_error():
    cfg = get_config('mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py')
    with pytest.raises(InputError, match=r'neck is a list in .*; write type=.WithPlugins'):
        fragment(cfg, 'neck', '0.fpn_convs.*')
    cfg.model.neck = None
    with pytest.raises(InputError, match='the model has no neck'):
        fragment(cfg, 'neck', '.')


def test_tool_prints_a_table(run, tmp_path):
    config = CONFIGS / 'faster_rcnn_r50_digits.py'
    options = ('--size', 64, '--only', 'neck:fpn_convs.0')
    printed = run('places.py', config, *options, cwd=tmp_path).stdout
    assert '64 x 16 x 16' in printed and 'fpn_convs.0' in printed
    assert 'a CBAM at each of these places: 1 CBAM, +0.00 M parameters, +0.' in printed
    assert 'M multiply-adds, for an image of 64x64 pixels' in printed
