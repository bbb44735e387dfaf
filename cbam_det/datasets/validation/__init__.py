"""What a COCO or VOC data set holds, and every fault in it."""
