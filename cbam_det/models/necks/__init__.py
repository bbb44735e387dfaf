"""Necks that mmdet does not have."""

from .stairnet import StairNet

__all__ = ['StairNet']
