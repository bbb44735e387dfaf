_base_ = ['./retinanet_mobilenetv2_digits.py', './_base_/attention/cbam_mobilenetv2.py']
model = dict(backbone=dict(type='WithPlugins', base_type='MobileNetV2', plugins=_base_.plugins))
