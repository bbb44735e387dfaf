_base_ = ['./faster_rcnn_r101_c4.py', './_base_/attention/cbam.py']
stage4 = dict(type='WithPlugins', base_type='ResLayer', plugins=_base_.plugins)
trunk = dict(type='WithPlugins', base_type='ResNet', plugins=_base_.plugins)
model = dict(backbone=trunk, roi_head=dict(shared_head=stage4))
