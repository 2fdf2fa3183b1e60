"""Feature maps as colours: the three directions in which the cells of a map differ most."""

from __future__ import annotations

import torch
from torch import Tensor

LOW, HIGH = 0.02, 0.98
"""Quantiles that become no and full intensity, so that a few extreme cells do not dim the rest."""


def feature_colors(*maps: Tensor) -> list[Tensor]:
    """Turn feature maps into RGB images by their first three principal components.

    Cells with similar features get similar colours; which colour it is has no meaning.

    Args:
        maps: ``(C, H, W)`` each, at least three cells and channels in the first. The components and
            the range of the colours are those of the first map, so that all can be compared.

    Returns:
        ``(H, W, 3)`` of each map, from 0 to 1.
    """
    rows = [features.flatten(1).T.double() for features in maps]  # (H * W, C)
    mean = rows[0].mean(dim=0)
    # The eigenvectors of the covariance are exact and repeatable, as C is a few hundred at most.
    _, vectors = torch.linalg.eigh(torch.cov(rows[0].T))  # eigenvalues ascend
    projected = [(cells - mean) @ vectors[:, -3:].flip(1) for cells in rows]
    low, high = (projected[0].quantile(q, dim=0) for q in (LOW, HIGH))
    span = (high - low).clamp(min=torch.finfo(torch.double).tiny)
    return [
        ((values - low) / span).clamp(0, 1).reshape(*features.shape[1:], 3)
        for values, features in zip(projected, maps, strict=True)
    ]
