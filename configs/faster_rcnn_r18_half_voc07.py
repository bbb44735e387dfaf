# A comparison as in table 6 of the paper, on VOC 2007 and for a CPU.
_base_ = [
    './_base_/models/faster_rcnn_r18_half.py',
    './_base_/datasets/voc07.py',
    './_base_/schedules/cosine.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['cbam_det'])
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(320, 320))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(320, 320))
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=200)
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
channels_last = True
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
