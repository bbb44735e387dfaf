# PASCAL VOC 2007 alone: trainval to train on (5,011 images), test to score (4,952). In mmdet's own
# 07+12 data set boxes below 32 pixels are not learnt; here all are that have an area.
#
# One test gives VOC's AP50 by 11 points, as in the paper, and by area, and COCO's AP. VOC's scores
# leave difficult boxes out, neither found nor missed; to COCO's they are crowds. mmdet reads VOC's
# boxes 1 pixel short (xmax - 1 is the last pixel, not the edge), which VOC's score adds again and
# COCO's does not. Test images go one by one: in a batch the smaller would be padded to the larger,
# and what is found would depend on the batch.
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
