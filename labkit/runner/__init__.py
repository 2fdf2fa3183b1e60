"""Headless notebooks: each in a process of its own, one truthful outcome each, a report."""
