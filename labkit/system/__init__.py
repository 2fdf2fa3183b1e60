"""Small helpers for files, processes and terminals."""
