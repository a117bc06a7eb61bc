"""Train a diffusion model; see dpm_jax/cli/train.py."""

from dpm_jax.cli import train_command

if __name__ == "__main__":
    raise SystemExit(train_command())
