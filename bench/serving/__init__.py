"""The parts of `bench/serve.py`: workloads, fixtures, the runner of the rounds, and the report."""
