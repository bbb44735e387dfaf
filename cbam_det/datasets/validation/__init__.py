"""Validation of COCO and VOC data sets: what they contain, and every fault in them."""
