"""The configs that come with the package, by name: `--config=NAME`, or `dpm_jax.configs.NAME.get_config()`.

Each is one module with `get_config() -> ConfigDict`. Its docstring has the paper, the command and what to expect.
"""
