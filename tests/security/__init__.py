"""Attacks on the program, each of which once worked or would have."""
