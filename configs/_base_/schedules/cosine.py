# Linear warm-up by steps, then cosine annealing to zero; configs set the lengths and the epochs.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
max_epochs = 5
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
