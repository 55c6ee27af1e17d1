"""Exports of annotation tools (COCO, YOLO, VIA, labelme, Pascal VOC) to questions and answers with boxes."""
