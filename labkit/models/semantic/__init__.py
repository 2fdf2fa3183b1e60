"""Semantic segmentation: FCN and DeepLab."""
