_base_ = ['./faster_rcnn_r50_c4.py', './_base_/attention/cbam_c4.py']
stage4 = dict(type='WithPlugins', base_type='ResLayer', plugins=_base_.shared_head_plugins)
model = dict(backbone=dict(plugins=_base_.plugins), roi_head=dict(shared_head=stage4))
