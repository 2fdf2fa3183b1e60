"""Backbones: residual networks and the feature pyramid."""
