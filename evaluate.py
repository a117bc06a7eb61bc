"""Evaluate a trained model; see dpm_jax/cli/evaluate.py."""

from dpm_jax.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
