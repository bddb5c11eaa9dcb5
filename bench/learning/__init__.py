"""What `bench/training.py` measures beside."""
