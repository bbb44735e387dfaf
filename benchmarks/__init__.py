"""For this repository alone: speed, rounding, the sweep of mmdet's zoo, the README's tables."""
