_base_ = ['./retinanet_mobilenetv2_bccd.py', './_base_/attention/cbam.py']
model = dict(backbone=dict(type='WithPlugins', base_type='MobileNetV2', plugins=_base_.plugins))
