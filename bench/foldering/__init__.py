"""What `bench/folders.py` makes before it measures."""
