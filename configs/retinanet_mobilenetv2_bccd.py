_base_ = [
    './_base_/models/retinanet_mobilenetv2.py',
    './_base_/datasets/bccd.py',
    './_base_/schedules/bccd.py',
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1), logger=dict(interval=13))
