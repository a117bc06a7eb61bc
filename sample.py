"""Draw samples from a trained model; see dpm_jax/cli/sample.py."""

from dpm_jax.cli.sample import main

if __name__ == "__main__":
    raise SystemExit(main())
