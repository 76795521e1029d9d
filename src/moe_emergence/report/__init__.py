"""Measures to figures, tables and one page."""
