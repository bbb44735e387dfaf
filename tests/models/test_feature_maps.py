"""Parts of a detector that do not fit together are named before a run, with the key to change."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from cbam_det.models.build import build_model
from cbam_det.models.feature_maps import check_feature_maps
from cbam_det.utils.config import read_config
from cbam_det.utils.errors import InputError

RETINANET = 'retinanet_mobilenetv2_cbam_neck_digits'
FASTER_RCNN = 'faster_rcnn_r18_cbam_digits'


def checked(name: str, **model: dict) -> None:
    cfg = read_config(name, announce=False)
    cfg.merge_from_dict(dict(model=model))
    check_feature_maps(cfg, build_model(cfg))


@pytest.mark.parametrize('name', [RETINANET, FASTER_RCNN, 'tiny_imagenet/resnet18_half'])
def test_shipped_configs_fit_together(name):
    if name.startswith('tiny'):
        pytest.importorskip('mmpretrain')
    checked(name)


@pytest.mark.parametrize(
    ('name', 'change', 'words'),
    [
        (
            FASTER_RCNN,
            dict(backbone=dict(out_indices=(-1, 1, 2, 3))),
            r'^model.backbone.out_indices=\(-1, 1, 2, 3\) has outputs that this ResNet does not '
            'have; give numbers from 0 to 3$',
        ),
        (
            RETINANET,
            dict(backbone=dict(_delete_=True, type='Darknet', depth=53, out_indices=(3, 9))),
            'this Darknet does not have; give numbers from 0 to 5$',
        ),
        (
            RETINANET,
            dict(backbone=dict(out_indices=(4, 6))),
            r'^model.neck \(FPN\) has in_channels=\[32, 96, 320\], but gets 2 maps of 96, 320 '
            r"channels; give --cfg-options 'model.neck.in_channels=\[96,320\]'$",
        ),
        (
            RETINANET,
            dict(neck=dict(in_channels=[32, 96, 64])),
            r"give --cfg-options 'model.neck.in_channels=\[32,96,320\]'$",
        ),
        (
            RETINANET,
            dict(bbox_head=dict(in_channels=64)),
            r'^model.bbox_head \(RetinaHead\) has in_channels=64, but gets .* give --cfg-options '
            'model.bbox_head.in_channels=96$',
        ),
        (
            FASTER_RCNN,
            dict(rpn_head=dict(in_channels=7)),
            'give --cfg-options model.rpn_head.in_channels=64$',
        ),
        (
            RETINANET,
            dict(backbone=dict(out_indices=())),
            r'^model.backbone.out_indices=\(\) names no output of this MobileNetV2; give numbers',
        ),
        (
            RETINANET,
            dict(neck=dict(num_outs=4)),
            r'^model.bbox_head \(RetinaHead\) has 5 strides, but gets 4 maps; give it one stride',
        ),
        (
            FASTER_RCNN,
            dict(roi_head=dict(bbox_roi_extractor=dict(out_channels=32))),
            'extractor.out_channels=32, but the maps have 64 channels; give --cfg-options '
            'model.roi_head.bbox_roi_extractor.out_channels=64$',
        ),
        (
            FASTER_RCNN,
            dict(roi_head=dict(bbox_head=dict(roi_feat_size=5))),
            r'^model.roi_head.bbox_head \(Shared2FCBBoxHead\) is built for other regions than '
            'those of 64 channels and 7x7 pixels',
        ),
    ],
)
def test_part_that_gets_other_maps_is_named_with_its_remedy(name, change, words):
    with pytest.raises(InputError, match=words):
        checked(name, **change)


def test_neck_with_channels_from_the_last_map_keeps_its_order():
    backbone = dict(type='Darknet', depth=53, out_indices=(3, 4, 5))
    neck = dict(
        type='YOLOV3Neck', num_scales=3, in_channels=[1024, 512, 128], out_channels=[64, 32, 16]
    )
    head = dict(type='YOLOV3Head', num_classes=2, in_channels=[64, 32, 16], out_channels=[8, 8, 8])
    cfg = Config(dict(model=dict(type='YOLOV3', backbone=backbone, neck=neck, bbox_head=head)))
    with pytest.raises(InputError, match=r"give --cfg-options 'model.neck.in_channels=\[1024,512"):
        check_feature_maps(cfg, build_model(cfg))
    cfg.model.neck.in_channels = [1024, 512, 256]
    check_feature_maps(cfg, build_model(cfg))
