# Width 2.0 of table 4; for width 1.5, set base_channels=96 and 768 channels for the head.
_base_ = './resnet18_cbam.py'
model = dict(backbone=dict(base_channels=128, stem_channels=64), head=dict(in_channels=1024))
