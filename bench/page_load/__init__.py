"""The parts of `bench/page.py`."""
