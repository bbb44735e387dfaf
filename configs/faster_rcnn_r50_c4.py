# The paper's COCO experiment, table 6: Faster R-CNN C4 with the settings of the code that the paper
# used (Chen and Gupta, arXiv:1702.02138): one image of 600 pixels per step, 490,000 steps, a tenth
# of the learning rate after 350,000. Its trainval35k and minival equal train2017 and val2017.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4, 8, 16, 32])),
    train_cfg=dict(rcnn=dict(sampler=dict(num=256))),
    test_cfg=dict(rpn=dict(max_per_img=300), rcnn=dict(nms=dict(iou_threshold=0.3))),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(1000, 600))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(1000, 600))
train_dataloader = dict(
    batch_size=1,
    sampler=dict(type='InfiniteSampler'),
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
steps = 490000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=steps, val_interval=70000)
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[350000], gamma=0.1)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=70000))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=1)
