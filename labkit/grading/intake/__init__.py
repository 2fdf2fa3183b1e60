"""Submitted files: who handed in what, and when."""
