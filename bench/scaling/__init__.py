"""What `bench/scale.py` is made of: the model, one file for each thing measured, the report."""
