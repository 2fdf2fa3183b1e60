"""COCO's instance and panoptic formats."""
