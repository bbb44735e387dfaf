# Faster R-CNN for images of about 320 pixels on a CPU: ResNet-18 with torchvision's ImageNet
# weights, heads at half width, FPN with 128 channels from stride 8. RoIAlign would take half of a
# step on a CPU, so it takes one sample per bin and 64 regions per image.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, start_level=1, num_outs=4),
    rpn_head=dict(
        in_channels=128,
        feat_channels=128,
        anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=128, featmap_strides=[8, 16, 32], roi_layer=dict(sampling_ratio=1)
        ),
        bbox_head=dict(in_channels=128, fc_out_channels=256, num_classes=20),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
