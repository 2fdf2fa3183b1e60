"""Data sets made of a folder of masks."""
