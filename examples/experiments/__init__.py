"""Grids of small runs, each one command with one table and one figure; see `python -m examples.experiments --help`."""
