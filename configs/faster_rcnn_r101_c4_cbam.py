# As in the paper, every block has attention, also those of the frozen first stage.
_base_ = ['./faster_rcnn_r101_c4.py', './_base_/attention/cbam.py']
stage4 = dict(type='WithPlugins', base_type='ResLayer', plugins=_base_.plugins)
every_block = [dict(stages=(True, True, True), **_base_.plugins[0])]
trunk = dict(type='WithPlugins', base_type='ResNet', plugins=every_block)
model = dict(backbone=trunk, roi_head=dict(shared_head=stage4))
