"""Train a diffusion model; see dpm_jax/cli/train.py."""

from dpm_jax.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
