"""Parts of one's own: named in a config by their paths, trained, saved, found again; and refused in one line."""

import json

import jax
import numpy as np
import pytest

from dpm_jax import bound
from dpm_jax.errors import UserError
from dpm_jax.training import build, loop, parts, workdir
from dpm_jax.training import config as config_lib
from tests.programs import executions

OWN = {
    "data.name": "tests.own_parts:moons",
    "data.options": "num=300",
    "schedule.name": "tests.own_parts:halves",
    "schedule.options": "final=2e-3",
    "network.name": "tests.own_parts:Net",
    "network.options": "width=5",
    "optimizer.name": "tests.own_parts:lion",
    "optimizer.options": "b1=0.8",
    "optimizer.decay.name": "tests.own_parts:halving",
    "train.objective": "tests.own_parts:weighted",
    "train.options": "power=0.5",
    "train.time_sampler": "tests.own_parts:even",
}


def config(**changes):
    made = config_lib.default()
    small = {"num_timesteps": 6, "train.steps": 4, "train.batch_size": 16, "train.log_every": 2}
    made.update_from_flattened_dict(small | changes)
    return made


def test_parts_of_ones_own_are_trained_saved_and_found_again(tmp_path):
    c = config(**OWN)
    source = build.source(c, report=lambda line: None)
    assert source.shape == (2,)
    assert source.num_held_out == 30
    built = build.experiment(c, source.shape)
    assert built.module.width == 5
    assert float(built.model(built.init(jax.random.key(0))).process.schedule.alpha_bar[-1]) == pytest.approx(2e-3)
    workdir.claim(tmp_path, c, source)
    result = loop.train(built, source, tmp_path, report=lambda line: None)
    described = workdir.read(tmp_path)
    assert described.config.network.name == "tests.own_parts:Net"
    again = build.experiment(described.config, described.shape)
    step, params = loop.load_params(again, tmp_path)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, params, result.params)
    changed = config(**OWN | {"network.options": "width=6"})
    assert config_lib.differences(c, changed) == ["network.options: width=5, now width=6"]
    # A module that is no more where it was.
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["network"]["name"] = "gone_parts:Net"
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"config\.network\.name: cannot import 'gone_parts'.*PYTHONPATH"):
        build.experiment(workdir.read(tmp_path).config, described.shape)


def test_an_objective_of_ones_own_is_what_is_minimised():
    """The mean of alpha_bar^power over all t, which no noise enters."""
    c = config(**{"train.objective": "tests.own_parts:signal", "train.options": "power=2.0"})
    built = build.experiment(c, (2,))
    params = built.init(jax.random.key(0))
    alpha_bar = np.asarray(built.model(params).process.schedule.alpha_bar, np.float64)
    loss, _ = built.loss(params, jax.random.key(2), np.zeros((16, 2), np.float32), ())
    np.testing.assert_allclose(loss, (alpha_bar**2).mean(), rtol=1e-6)
    assert not built.loss_is_bound


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network.name": "time_mpl"}, "config.network.name: must be one of time_mlp"),
        ({"network.name": "time_mpl"}, "did you mean time_mlp?"),
        ({"network.name": "tests.own_parts:Nett"}, "has no callable 'Nett'; did you mean Net?"),
        ({"network.name": "tests.own_partz:Net"}, "cannot import 'tests.own_partz'"),
        (
            {"network.name": "tests.own_parts:Net", "network.options": "widht=3"},
            "config.network.options: Net takes width, not 'widht'; did you mean width?",
        ),
        ({"network.name": "tests.own_parts:Net", "network.options": "num_outputs=3"}, "not 'num_outputs'"),
        ({"network.name": "os:system", "network.options": "command='true'"}, "'os' comes with Python"),
        ({"network.name": "tests.own_parts:WrongNet"}, "must return (2, 4) of x_t (2, 2) and t (2,), got (2, 7)"),
        ({"network.name": "tests.own_parts:not_a_net"}, "is no Flax module (linen), but int"),
        ({"network.options": "widht=3"}, "config.network.time_mlp: TimeMLP takes features"),
        ({"schedule.name": "tests.own_parts:moons"}, "config.schedule.name: must return a dpm_jax.Schedule, got nd"),
        ({"schedule.name": "tests.own_parts:halves", "schedule.options": "final=0.9"}, "of the data is left"),
        ({"optimizer.name": "tests.own_parts:moons"}, "must take learning_rate"),
        ({"train.objective": "tests.own_parts:weighted", "train.options": "pover=1"}, "did you mean power?"),
        ({"train.objective": "tests.own_parts:weighted", "train.emphasis": 0.5}, "does not go with emphasis"),
        ({"train.options": "power=1"}, "config.train.options"),
        ({"train.objective": "hybird"}, "did you mean hybrid?"),
        ({"train.time_sampler": "unifrom"}, "did you mean uniform?"),
        ({"network.name": "rbf", "network.rbf.units": 0}, "config.network.rbf.units: must lie in [1, inf), got 0"),
        ({"mesh.data": -2}, "config.mesh.data: must lie in [-1, inf), got -2"),
        ({"evaluate.num_examples": 1}, "config.evaluate.num_examples: must lie in [2, inf), got 1"),
        ({"train.accumulate": 3}, "config.train.accumulate: must divide the batch of 16, got 3"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        build.experiment(config(**changes), (2,))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.name": "tests.own_parts:words"}, "gives examples of str; arrays are needed"),
        ({"data.name": "tests.own_parts:nothing"}, "returns NoneType; a Source, an array"),
        ({"data.name": "tests.own_parts:breaks"}, "num: is wrong"),
        ({"data.name": "tests.own_parts:endless", "data.crop": 4}, "leave config.data.crop 0"),
        ({"data.name": "tests.own_parts:endless", "data.options": "skale=2"}, "did you mean scale?"),
        ({"data.name": "tests.own_parts:moons", "kernel": "binomial"}, "holds other values than 0 and 1"),
        ({"data.crop": 3}, "config.data.crop: data 'swiss_roll' are not cut; leave it 0"),
        ({"data.name": "swiss_rol"}, "did you mean swiss_roll?"),
    ],
)
def test_what_is_wrong_with_data_is_said_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        build.source(config(**changes), report=lambda line: None)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_bits_of_ones_own():
    source = build.source(config(**{"data.name": "tests.own_parts:bits", "kernel": "binomial"}))
    assert source.binary
    assert set(np.unique(source.supply(jax.random.key(0), 20))) == {0.0, 1.0}


def test_a_sequence_of_images_is_looked_at_when_it_is_needed():
    said = []
    source = build.source(config(**{"data.name": "tests.own_parts:squares"}), report=said.append)
    assert said == ["data: 40 images of 8 x 8 x 1 from tests.own_parts:squares"]
    assert source.shape == (8, 8, 1)
    assert source.standardization.levels == 256
    assert source.num_held_out == 4
    batch = next(source.supply.batches(0, 6))
    assert batch.shape == (6, 8, 8, 1)
    assert batch.dtype == np.uint8


def test_a_stream_is_read_in_order_and_goes_on_where_it_was():
    from tests import own_parts

    source = build.source(config(**{"data.name": "tests.own_parts:endless", "data.options": "scale=3.0"}))
    stream = own_parts.endless(3.0)
    raw = np.stack([next(stream) for _ in range(4096)])
    np.testing.assert_allclose(source.standardization.mean, raw.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(source.train_examples(5), raw[2048:2053])
    batches = source.supply.batches(0, 8)
    first, second, third = (next(batches) for _ in range(3))
    np.testing.assert_allclose(source.standardization.invert(first), raw[2048:2056], rtol=1e-5, atol=1e-5)
    later = source.supply.batches(0, 8, 2)
    np.testing.assert_array_equal(next(later), third)
    shares = [next(source.supply.batches(0, 8, 1, process=p, num_processes=2)) for p in range(2)]
    np.testing.assert_array_equal(np.concatenate(shares), second)
    held_out = source.standardization.invert(np.asarray(source.held_out(jax.random.key(0), 1024)))
    np.testing.assert_allclose(np.sort(held_out, axis=0), np.sort(raw[:1024], axis=0), rtol=1e-4, atol=1e-4)


def test_help_lists_every_part_with_its_arguments():
    text = parts.summary(config_lib.default())
    assert all(f"  {name}: " in text for names in parts.SHORT_NAMES.values() for name in names)
    assert "--config.network.unet.features=(32,64)" in text
    assert "--config.schedule.linear.beta_1=NUMBER" in text
    assert "--config.network.time_mlp.num_frequencies=32" in text


@pytest.mark.parametrize("edge", ["forward", "decoder"])
def test_terms_without_a_gradient_are_taken_from_a_few_examples(edge):
    """On average over the noise, it is minus K; and the gradient is that of K, whose other terms have none."""
    c = config(**{"edge": edge, "train.batch_size": 64})
    built = build.experiment(c, (2,))
    params = jax.tree.map(lambda a: a + 0.01, built.init(jax.random.key(0)))
    x_0 = jax.random.normal(jax.random.key(1), (64, 2))
    losses = (
        lambda params, key: built.loss(params, key, x_0, ())[0],
        lambda params, key: -bound.estimate(key, built.model(params), x_0, edge=edge).mean,
    )
    num = 1000

    @jax.jit
    def run():
        many = [jax.random.split(key, num) for key in jax.random.split(jax.random.key(2), 2)]
        return [
            jax.lax.map(lambda k, f=f: jax.value_and_grad(f)(params, k), m) for f, m in zip(losses, many, strict=True)
        ]

    (loss, gradient), (wanted, wanted_gradient) = run()
    fixed = np.asarray(bound.fixed_terms(built.model(params).process, x_0, edge))
    error = np.hypot(loss.std(), wanted.std()) / np.sqrt(num)
    assert abs(loss.mean() - (wanted.mean() + fixed.mean() - fixed[:4].mean())) < 4 * error
    for a, b in zip(*map(jax.tree.leaves, (gradient, wanted_gradient)), strict=True):
        error = np.sqrt(a.var(0) + b.var(0)) / np.sqrt(num)
        assert (np.abs(a.mean(0) - b.mean(0)) <= 5 * error + 1e-6).all()


def test_grain_datasets_are_sequences_and_streams():
    pytest.importorskip("grain", reason="grain is not installed")
    images = build.source(config(**{"data.name": "tests.own_parts:grain_images"}), report=lambda line: None)
    plain = build.source(config(**{"data.name": "tests.own_parts:squares"}), report=lambda line: None)
    np.testing.assert_array_equal(next(images.supply.batches(0, 6)), next(plain.supply.batches(0, 6)))
    points = build.source(config(**{"data.name": "tests.own_parts:grain_points"}), report=lambda line: None)
    wanted = 3.0 * np.random.default_rng(3).normal(size=(5000, 2))[2048:2052]
    np.testing.assert_allclose(points.train_examples(4), wanted)


@pytest.mark.parametrize(("options", "rows"), [("", 16), ("num_times=3", 48)])
def test_the_bound_takes_options(options, rows):
    """Three times of each example go through the network together."""
    built = build.experiment(config(**{"train.options": options, "schedule.learned": True}), (2,))
    params = jax.eval_shape(built.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(lambda params, key, x_0: built.loss(params, key, x_0, ())[0])(
        params, jax.random.key(2), np.zeros((16, 2), np.float32)
    )
    assert set(executions(jaxpr.jaxpr, "dot_general")) & {16, 48} == {rows}
