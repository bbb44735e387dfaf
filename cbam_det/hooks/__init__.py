"""Hooks of training."""

from .audit import AttentionAudit

__all__ = ['AttentionAudit']
