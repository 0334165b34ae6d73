"""Hostile input: what damaged files and wrong values must not do. `python -m tests.hostile` runs all of it."""
