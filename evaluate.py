"""Evaluate a trained model; see dpm_jax/cli/evaluate.py."""

from dpm_jax.cli import evaluate_command

if __name__ == "__main__":
    raise SystemExit(evaluate_command())
