"""Figures of data, detections and training."""
