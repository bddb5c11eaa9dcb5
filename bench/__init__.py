"""Measurements. Each file with a `main` is started as `python bench/NAME.py`."""
