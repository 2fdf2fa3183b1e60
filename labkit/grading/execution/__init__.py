"""Execution of submissions, and extraction of their answers."""
