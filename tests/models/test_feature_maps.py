"""Parts of a detector that do not fit together are named before a run, with the key to change."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.detectors import RetinaNet
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.config import Config
from torch import nn

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


def test_rpn_alone_is_named_by_its_key():
    head = dict(type='RPNHead', in_channels=7, feat_channels=8)
    backbone = dict(type='ResNet', depth=18)
    neck = dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5)
    parts = dict(backbone=backbone, neck=neck, rpn_head=head)
    cfg = Config(dict(model=dict(type='RPN', **parts, train_cfg=None, test_cfg=dict(rpn={}))))
    with pytest.raises(InputError, match=r'give --cfg-options model\.rpn_head\.in_channels=8$'):
        check_feature_maps(cfg, build_model(cfg))


def test_head_that_leaves_out_further_maps_is_accepted():
    head = dict(type='FCOSHead', num_classes=10, in_channels=96, strides=(8, 16, 32, 64))
    checked(RETINANET, bbox_head=dict(_delete_=True, **head))


class OfOneSize(nn.Module):
    """A head with a linear layer over the whole of an 8x8 map."""

    in_channels = 96

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(96 * 8 * 8, 1)

    def forward(self, maps):
        return self.layer(maps[0].flatten(1))


def test_head_for_another_image_size_is_left_to_the_run():
    cfg = read_config(RETINANET, announce=False)
    model = build_model(cfg)
    model.bbox_head = OfOneSize()
    check_feature_maps(cfg, model)


class TwoImages(RetinaNet):
    """A detector of one's own that joins the maps of two images."""

    def extract_feat(self, batch_inputs):
        maps = [self.backbone(image) for image in batch_inputs.chunk(2)]
        return self.neck([torch.cat(pair, 1) for pair in zip(*maps, strict=True)])


class WithContext(StandardRoIHead):
    """A RoI head of one's own that joins each region with its context."""

    def _bbox_forward(self, x, rois):
        regions = self.bbox_roi_extractor(x, rois)
        return self.bbox_head(torch.cat([regions, regions], 1))


def test_own_code_between_the_parts_may_change_the_maps():
    cfg = read_config(RETINANET, announce=False)
    cfg.model.neck.in_channels = [64, 192, 640]
    model = build_model(cfg)
    model.__class__ = TwoImages
    check_feature_maps(cfg, model)
    cfg = read_config(FASTER_RCNN, announce=False)
    cfg.model.roi_head.bbox_head.in_channels = 128
    model = build_model(cfg)
    model.roi_head.__class__ = WithContext
    check_feature_maps(cfg, model)


def test_check_draws_no_random_numbers_and_changes_no_weights_norms_or_modes():
    for name in (RETINANET, FASTER_RCNN):
        cfg = read_config(name, announce=False)
        model = build_model(cfg)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        state = torch.get_rng_state()
        check_feature_maps(cfg, model)
        assert torch.equal(torch.get_rng_state(), state)
        after = model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert [module.training for module in model.modules()] == modes
