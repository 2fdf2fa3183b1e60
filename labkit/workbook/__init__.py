"""The workbook: its notebooks, run headlessly, and their report."""
