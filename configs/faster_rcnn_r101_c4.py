_base_ = './faster_rcnn_r50_c4.py'
weights = dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe')
model = dict(
    backbone=dict(depth=101, init_cfg=weights),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=weights)),
)
