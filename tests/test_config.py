"""Configs: every shipped one is valid, and every wrong one is refused in one line."""

import contextlib
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dpm_jax import Gaussian, predictions, schedules
from dpm_jax.cli import config_file
from dpm_jax.data.standardization import of_pixels
from dpm_jax.errors import UserError
from dpm_jax.spectrum import Spectrum
from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from dpm_jax.training.summary import summary

SHIPPED = {
    "swiss_roll": (2,),
    "swiss_roll_paper": (2,),
    "heartbeat": (20,),
    "heartbeat_paper": (20,),
    "mnist": (28, 28, 1),
    "ddpm_mnist": (28, 28, 1),
    "cifar10_vdm": (32, 32, 3),
    "ddpm_cifar10": (32, 32, 3),
    "cold_blur_mnist": (28, 28, 1),
    "cold_pixelate_cifar10": (32, 32, 3),
    "mnist_bits": (28, 28, 1),
    "mnist_paper": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar10_paper": (32, 32, 3),
    "dead_leaves": (32, 32, 1),
    "dead_leaves_paper": (32, 32, 1),
    "bark": (32, 32, 1),
    "bark_paper": (32, 32, 1),
}
# Configs of a user's own data.
OWN = {"folder": (32, 32, 3), "points": (2,)}


@pytest.mark.parametrize("name", OWN)
def test_configs_of_own_data_build(name):
    module = importlib.import_module(f"dpm_jax.configs.{name}")
    build.experiment(module.get_config(), OWN[name])
    assert "--data_dir" in module.__doc__


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_build(name):
    module = importlib.import_module(f"dpm_jax.configs.{name}")
    config = module.get_config()
    shape = SHIPPED[name]
    found = Spectrum(np.zeros(shape, np.float32), np.eye(shape[-1], dtype=np.float32))
    build.experiment(config, shape, of_pixels(60.0, 70.0**2, 256)._replace(spectrum=found))
    if config.data.name not in ("tfds", "folder"):
        assert build.source(config).shape == SHIPPED[name]
    assert "Paper:" in module.__doc__
    assert "Command:" in module.__doc__


def test_every_config_is_tested():
    assert set(config_file.names()) == {*SHIPPED, *OWN}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_timesteps", 0, "config.num_timesteps: must lie in [1, inf), got 0"),
        ("num_timesteps", -5, "config.num_timesteps"),
        ("kernel", "gausian", "did you mean gaussian?"),
        ("schedule.name", "quadratic", "must be one of geometric, erase, linear, cosine, sigmoid"),
        ("schedule.geometric.beta_1", 1.5, "beta_1 must lie in (0, 1), got 1.5"),
        ("schedule.geometric.beta_1", -1e-3, "beta_1 must lie in (0, 1)"),
        ("data.swiss_roll.noise", 0.0, "config.data.swiss_roll.noise"),
        ("optimizer.adam.b2", 1.0, "[0, 1)"),
        ("train.batch_size", 1, "config.train.batch_size"),
        ("train.steps", -1, "config.train.steps"),
        ("network.time_mlp.features", (64, 0), "positive widths"),
        ("kernel", "binomial", "needs bits"),
        ("data.name", "heartbeat", "need kernel 'binomial'"),
        ("seed", -1, "config.seed"),
        ("data.name", "file", "config.data.file.path"),
    ],
)
def test_values_out_of_range_are_refused(field, value, words):
    config = config_lib.default()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        build.experiment(config, build.source(config).shape)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule.name": "linear", "schedule.linear.beta_final": 1.2}, "beta_final must lie in (0, 1), got 1.2"),
        ({"schedule.name": "erase"}, "raise alpha_bar_final"),
        (
            {"schedule.name": "linear", "schedule.linear.beta_1": 1e-4, "schedule.linear.beta_final": 0.02},
            "config.schedule.linear: after T = 10 steps alpha_bar_T = 0.9 of the data is left",
        ),
        ({"schedule.geometric.nsr_final": 0.5}, "config.schedule.geometric: after T = 10 steps"),
        (
            {"reverse.covariance": "full", "reverse.variance": "sigmoid"},
            "config.reverse.variance: must be 'mixed' with reverse.covariance 'full'",
        ),
        (
            {"kernel": "binomial", "data.name": "heartbeat", "data.heartbeat.period": 21},
            "config.data.heartbeat.period: must be at most the length 20",
        ),
        ({"kernel": "binomial", "data.name": "heartbeat", "schedule.learned": True}, "not differentiable"),
        (
            {"kernel": "binomial", "data.name": "heartbeat", "reverse.prediction": "x_0", "reverse.covariance": "full"},
            "gaussian",
        ),
        (
            {"kernel": "binomial", "data.name": "heartbeat", "reverse.prediction": "epsilon"},
            "config.reverse.prediction: must be one of x_0, perturbation, got 'epsilon'",
        ),
        (
            {"kernel": "binomial", "data.name": "heartbeat", "reverse.prediction": "x_0", "reverse.variance": "small"},
            "config.reverse.variance: must be 'mixed' with kernel 'binomial', got 'small'",
        ),
        (
            {"kernel": "binomial", "data.name": "heartbeat", "reverse.prediction": "x_0", "train.objective": "simple"},
            "config.train.objective: 'simple' predicts noise",
        ),
        ({"train.objective": "simple"}, "'simple' teaches no variance, and reverse.variance 'mixed' is learned"),
        ({"train.objective": "hybrid", "reverse.variance": "large"}, "'hybrid' teaches a variance"),
        ({"train.objective": "sample_mse", "schedule.learned": True}, "needs train.objective 'bound'"),
        ({"train.objective": "sample_mse", "schedule.ends_learned": True}, "needs train.objective 'bound' or 'limit'"),
        ({"kernel": "binomial", "data.name": "heartbeat", "schedule.ends_learned": True}, "not differentiable"),
        ({"train.objective": "sample_mse", "train.emphasis": 0.5}, "does not go with emphasis"),
        (
            {"train.objective": "simple", "reverse.variance": "small", "train.time_sampler": "importance"},
            "'simple' does not go with time_sampler 'importance'",
        ),
        (
            {"train.objective": "limit", "train.time_sampler": "uniform"},
            "config.train.time_sampler: must be one of low_discrepancy, or",
        ),
        ({"optimizer.name": "adamm"}, "config.optimizer.name: Optax has no such function"),
        ({"optimizer.name": "adamm"}, "did you mean adam"),
        ({"optimizer.options": "b3=0.9"}, "optax.adam takes"),
        ({"optimizer.options": "b1 0.9"}, "config.optimizer.options: must be like 'momentum=0.9, nesterov=True'"),
        ({"optimizer.options": "learning_rate=1.0"}, "not 'learning_rate'"),
        ({"optimizer.name": "polyak_sgd"}, "config.optimizer.name"),
        ({"optimizer.name": "lbfgs"}, "config.optimizer.name: optax.lbfgs cannot be used with these options"),
        ({"optimizer.decay.name": "cosine"}, "config.optimizer.decay.name: Optax has no such function"),
        ({"optimizer.decay.options": "alfa=0.1"}, "did you mean alpha?"),
        ({"optimizer.decay.name": "polynomial_schedule"}, "config.optimizer.decay.options: optax.polynomial_schedule"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, words):
    config = config_lib.default()
    config.num_timesteps = 10
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        build.experiment(config, build.source(config).shape)
    assert words in str(error.value)


@pytest.mark.parametrize("prediction", ["epsilon", "residual", "v", "x_0", "perturbation"])
def test_a_prediction_that_is_divided_by_nothing_is_refused(prediction):
    config = config_lib.default()
    config.reverse.prediction, config.schedule.name = prediction, "cosine"
    build.experiment(config, (2,))
    config.schedule.cosine.beta_max = 0.9999999999
    if prediction in ("epsilon", "residual"):
        with pytest.raises(
            UserError, match=rf"config\.reverse\.prediction: '{prediction}' .* step t = 100 .* = 1e-10; use v"
        ):
            build.experiment(config, (2,))
    else:
        build.experiment(config, (2,))


@pytest.mark.parametrize("beta_max", [0.999, 0.99985, 0.99995])
def test_errors_of_epsilon_are_refused_by_what_they_do_to_the_step_before(beta_max):
    schedule = schedules.cosine(20, beta_max=beta_max)
    x, t = jnp.zeros((19, 1)), jnp.arange(2, 21)
    how: dict = {"prediction": "epsilon", "variance": "small"}
    right, wrong = (
        predictions.gaussian(Gaussian(schedule), lambda x, _, e=error: jnp.full_like(x, e), **how).reverse(x, t).mean
        for error in (0.0, 1.0)
    )
    amplified = float(jnp.abs(wrong - right).max())
    assert (amplified > 100) == (beta_max > 0.9999)
    config = config_lib.default()
    config.num_timesteps, config.schedule.name, config.schedule.cosine.beta_max = 20, "cosine", beta_max
    config.reverse.prediction = "epsilon"
    with pytest.raises(UserError, match=r"config\.reverse") if amplified > 100 else contextlib.nullcontext():
        build.experiment(config, (2,))


def test_full_covariance_is_for_few_dimensions():
    config = config_lib.default()
    config.reverse.covariance = "full"
    with pytest.raises(UserError, match="up to 6 dimensions, the data have 20"):
        build.experiment(config, (20,))


def test_types_are_checked():
    tree = config_lib.default().to_dict()
    tree["train"]["steps"] = "many"
    with pytest.raises(UserError, match=r"config\.train\.steps: must be int, got 'many'"):
        config_lib.check(ConfigDict(tree))


def test_unknown_and_missing_fields_are_named():
    assert config_lib.nearest_field("train.steps") is None
    assert "config.train.steps" in config_lib.nearest_field("train.stepz")
    assert "config.num_timesteps" in config_lib.nearest_field("num_timestep")
    assert "config.optimizer.learning_rate" in config_lib.nearest_field("learning_rate")
    assert "no such field" in config_lib.nearest_field("xyzzy")
    tree = config_lib.default().to_dict()
    del tree["seed"]
    with pytest.raises(UserError, match=r"config\.seed: missing"):
        config_lib.check(ConfigDict(tree))
    tree = config_lib.default().to_dict()
    tree["train"]["step"] = 3
    with pytest.raises(UserError, match=r"config\.train\.step: no such field; did you mean config\.train\.steps"):
        config_lib.check(ConfigDict(tree))


@pytest.mark.parametrize("name", SHIPPED)
def test_configs_survive_saving(name, tmp_path):
    config = importlib.import_module(f"dpm_jax.configs.{name}").get_config()
    config_lib.save(config, tmp_path / "config.json")
    loaded = config_lib.load(tmp_path / "config.json")
    assert config_lib.differences(config, loaded) == []
    loaded.train.steps = 7
    assert config_lib.differences(config, loaded) == []
    loaded.num_timesteps = 7
    assert config_lib.differences(config, loaded) == [f"num_timesteps: {config.num_timesteps}, now 7"]


def test_what_a_cold_chain_does_not_have_may_differ(tmp_path):
    one, other = config_lib.default(), config_lib.default()
    one.kernel = other.kernel = "cold"
    other.schedule.geometric.beta_1, other.reverse.prediction, other.edge = 0.1, "v", "decoder"
    assert config_lib.differences(one, other) == []
    other.cold.rule = "naive"
    assert config_lib.differences(one, other) == ["cold.rule: improved, now naive"]
    one.kernel = other.kernel = "gaussian"
    assert len(config_lib.differences(one, other)) == 3


def test_a_file_older_than_a_field_has_its_default(tmp_path):
    config = config_lib.default()
    config.num_timesteps = 7
    tree = config.to_dict()
    del tree["mesh"], tree["network"]["unet"]["dropout"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert config_lib.differences(config, config_lib.load(tmp_path / "config.json")) == []
    tree["train"]["stepz"] = 3
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"config\.train\.stepz: no such field; did you mean config\.train\.steps"):
        config_lib.load(tmp_path / "config.json")


def test_damaged_and_missing_config_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a workdir"):
        config_lib.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        config_lib.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("field", "value", "matters"),
    [
        ("network.unet.remat", True, False),
        ("network.rbf.units", 3, False),
        ("network.time_mlp.num_bumps", 3, True),
        ("optimizer.sgd.momentum", 0.5, False),
        ("optimizer.adam.b1", 0.5, True),
        ("optimizer.decay.exponential_decay.decay_rate", 0.5, False),
        ("optimizer.decay.cosine_decay_schedule.alpha", 0.5, True),
        ("cold.rule", "naive", False),
        ("data.heartbeat.length", 9, False),
        ("network.name", "rbf", True),
    ],
)
def test_what_changes_nothing_may_change_when_a_run_goes_on(field, value, matters):
    new = config_lib.default()
    new.update_from_flattened_dict({field: value})
    assert bool(config_lib.differences(config_lib.default(), new)) == matters


def test_group_normalisation_of_one_group_is_said():
    config = config_lib.default()
    changes = {"data.name": "dead_leaves", "network.name": "unet", "network.unet.num_heads": 2, "num_timesteps": 4}
    config.update_from_flattened_dict(changes | {"network.unet.features": (12, 16), "data.dead_leaves.size": 8})
    said = summary(build.experiment(config, (8, 8, 1)))
    assert said.endswith("network.unet.num_groups: 8 does not divide 12, 28 channels, which have one group")
    config.network.unet.features = (16, 16)
    assert len(summary(build.experiment(config, (8, 8, 1))).splitlines()) == 1
