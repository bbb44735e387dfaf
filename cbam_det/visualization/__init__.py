"""Figures of data, detections, attention and training."""
