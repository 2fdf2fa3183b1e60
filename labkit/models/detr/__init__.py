"""DETR (N. Carion et al., ECCV 2020)."""
