# The embedded digits in VOC's layout, scored with COCO's mAP and VOC's 11-point AP50. mmdet reads
# VOC boxes 1 pixel too small (xmax - 1 is the last pixel, not the edge), for both scores.
_base_ = './digits.py'
data = dict(
    type='XMLDataset',
    data_root='data/digits/VOCdevkit/VOC2007/',
    metainfo=dict(classes=_base_.classes),
    data_prefix=dict(img='', sub_data_root=''),
)
train_dataloader = dict(dataset=dict(ann_file='ImageSets/Main/trainval.txt', **data))
test_pipeline = _base_.test_pipeline
test_pipeline[-1]['meta_keys'] += ('instances',)
val_dataloader = dict(
    batch_size=1,  # so that scores do not depend on padding, for images of any size
    dataset=dict(ann_file='ImageSets/Main/test.txt', pipeline=test_pipeline, **data),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='CocoMetric', metric='bbox'),
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
]
test_evaluator = val_evaluator
