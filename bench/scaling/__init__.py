"""The parts of `bench/scale.py`: the model, loading, decoding, memory bandwidth, the report."""
