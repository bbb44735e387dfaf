# Not 'mmseg::pspnet/...': MMEngine 0.10.12 looks for it in a package `mmsegmentation`, and the
# maintained one is called onedl-mmsegmentation.
_base_ = (
    __import__('mmseg').__path__[0]
    + '/.mim/configs/pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py'
)
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'), position='after_conv3')]
model = dict(backbone=dict(plugins=plugins))
