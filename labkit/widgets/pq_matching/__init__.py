"""The panoptic quality explorer."""
