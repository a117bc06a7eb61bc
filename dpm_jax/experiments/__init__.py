"""Grids of small runs, each one command with one table and one figure; see `python -m dpm_jax.experiments --help`."""
