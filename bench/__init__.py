"""Benchmarks. Each documented script is started as `python bench/NAME.py`."""
