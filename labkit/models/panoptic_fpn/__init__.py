"""Panoptic FPN (A. Kirillov et al., CVPR 2019)."""
