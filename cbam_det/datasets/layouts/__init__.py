"""Read COCO, VOC and YOLO folders from annotation tools as COCO dictionaries, and split them."""
