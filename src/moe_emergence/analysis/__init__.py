"""Recorded traces to measures."""
