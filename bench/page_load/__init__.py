"""The parts of `bench/page.py`: tabs with and without a browser, pauses of the event loop."""
