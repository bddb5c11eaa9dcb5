"""The commands of `python -m model`, a module each."""
