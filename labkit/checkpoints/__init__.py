"""Weights in files: labkit's own, and those that other projects publish."""
