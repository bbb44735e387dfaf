"""Read COCO, VOC and YOLO folders from annotation tools as COCO dictionaries, and split them.

Why not the readers of supervision (0.31): they reject Label Studio's COCO files and YOLO labels
with `classes.txt`, ignore VOC's lists and difficult objects, and shift boxes of XMLs by one pixel.
"""
