# PASCAL VOC 2007: train on trainval (5,011 images), test on test (4,952 images). mmdet's own 07+12
# data set removes training boxes below 32 pixels; here only boxes without an area are removed.
#
# A test gives VOC's AP50 with 11 points (as in the paper) and by area, and COCO's AP. VOC's scores
# ignore difficult boxes; COCO's treats them as crowds. mmdet reads VOC boxes 1 pixel too small
# (xmax - 1 is the last pixel, not the edge); VOC's score corrects this, COCO's does not. The test
# batch size is 1, because padding images to the largest of a batch would change the detections.
_base_ = 'mmdet::_base_/datasets/voc0712.py'
data = dict(
    type='VOCDataset',
    data_root='data/VOCdevkit/',
    data_prefix=dict(sub_data_root='VOC2007/'),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
test_pipeline[-1]['meta_keys'] += ('instances',)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline,
        **data,
    ),
)
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
    dict(type='VOCMetric', metric='mAP', eval_mode='area', prefix='pascal_voc_area'),
    dict(type='CocoMetric', metric='bbox'),
]
test_evaluator = val_evaluator
