"""Data folders as people have them: COCO's, VOC's and YOLO's, read into one form and split."""
