"""Read COCO, VOC and YOLO folders from annotation tools as COCO dictionaries, and split them.

Why not the readers of supervision (0.31): they reject Label Studio's COCO files and YOLO labels
with `classes.txt`, ignore VOC's lists and difficult objects, and shift boxes of XMLs by one pixel.
Why not those of datumaro (1.13): of the twelve layouts in tests/datasets/layout_folders.py they
read three; the rest is not recognized, or rejected for its names or classes.
"""
