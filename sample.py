"""Draw samples from a trained model; see dpm_jax/cli/sample.py."""

from dpm_jax.cli import sample_command

if __name__ == "__main__":
    raise SystemExit(sample_command())
