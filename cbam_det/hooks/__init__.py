"""Hooks of training."""

from .audit import AttentionAudit
from .maps import AttentionMaps

__all__ = ['AttentionAudit', 'AttentionMaps']
