"""Submitted files: their students, times and contents."""
