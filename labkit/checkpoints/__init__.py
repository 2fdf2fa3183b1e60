"""Checkpoints: labkit's own files, and published weights of other projects."""
