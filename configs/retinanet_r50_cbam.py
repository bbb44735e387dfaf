_base_ = ['./retinanet_r50.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(plugins=_base_.plugins))
