"""A trained model in the data's own units: numbers against exact ones, units, refusals, `fit`, and the commands."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dpm_jax
from dpm_jax import Gaussian, likelihood, optimal, schedules
from dpm_jax.data import standardization
from dpm_jax.errors import UserError
from dpm_jax.training import build, defaults
from dpm_jax.training import config as config_lib
from tests import strict_json

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
VECTORS = RNG.normal([100.0, -5.0], [3.0, 0.1], (200, 2))
BITS = RNG.random((200, 6)) < [0.9, 0.1, 0.5, 0.5, 0.3, 0.7]
PIXELS = np.clip(RNG.normal(100, 40, (60, 1, 1)) + RNG.normal(0, 20, (60, 8, 8)), 0, 255).astype(np.uint8)
DATA = {"vectors": VECTORS, "bits": BITS, "pixels": PIXELS}
STEPS = {"vectors": 300, "bits": 300, "pixels": 20}
KEY, OTHER_KEY = jax.random.split(jax.random.key(3))


def quick(data):
    """The config that `fit` would take, made small."""
    config = defaults.for_data(data)
    small = {
        "num_timesteps": 10,
        "network.time_mlp.features": (8,),
        "network.name": "time_mlp" if data.ndim == 2 else "multiscale",
        "network.multiscale.features": 4,
        "network.multiscale.num_layers": 1,
        "network.multiscale.pointwise_layers": 1,
        "reverse.covariance": "diagonal",
        "schedule.geometric.beta_1": 1e-2,
        "train.batch_size": 32,
        "train.log_every": 50,
        "optimizer.warmup_steps": 10,
        "optimizer.ema_decay": 0.9,
        "evaluate.num_examples": 8,
    }
    config.update_from_flattened_dict(small)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


class Fitted(dict):
    """The run of each of the data, trained when it is first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, name):
        data, quiet = DATA[name], lambda line: None
        self[name] = dpm_jax.fit(data, self.folder / name, config=quick(data), steps=STEPS[name], report=quiet)
        return self[name]


@pytest.fixture(scope="module")
def runs(folder):
    return Fitted(folder)


def normal_run(run, mean, deviation, units, num_timesteps=100):
    """A run whose model is the normal law with this mean and these deviations in its own units, exactly."""
    process = Gaussian(schedules.geometric(num_timesteps, beta_1=1e-4, nsr_final=1e6))
    model = optimal.normal(process, jnp.asarray(mean), jnp.diag(jnp.asarray(deviation) ** 2))
    config = run.config.copy_and_resolve_references()
    config.edge = "decoder"
    exact = run.experiment._replace(config=config, shape=(len(mean),), model=lambda params, key=None: model)
    return dpm_jax.Run(exact, {}, units, 0)


# --- Against exact numbers ---


def test_a_normal_model_has_its_known_log_likelihood_in_the_data_s_units(runs):
    units = standardization.Standardization(np.array([100.0, -5.0]), np.array([3.0, 0.1]))
    run = normal_run(runs["vectors"], [0.2, -0.1], [0.8, 1.2], units)
    laws = [NormalDist(100 + 3 * 0.2, 3 * 0.8), NormalDist(-5 - 0.1 * 0.1, 0.1 * 1.2)]
    exact = np.array([sum(np.log(law.pdf(v)) for law, v in zip(laws, row, strict=True)) for row in VECTORS[:50]])
    found = run.log_likelihood(KEY, VECTORS[:50], k=10)
    # The weights of exact reverse steps are all alike.
    np.testing.assert_allclose(found.value, exact, atol=5e-3)
    assert found.stderr.max() < 5e-3
    k = run.bound(KEY, VECTORS[:50], num_draws=8)
    assert abs((k.value - exact).mean()) < 4 * np.sqrt((k.stderr**2).mean() / 50)
    assert np.quantile(np.abs(k.value - exact) / k.stderr, 0.8) < 3
    x = run.sample(OTHER_KEY, 4000)
    np.testing.assert_allclose((x.mean(0) - [100.6, -5.01]) / [2.4, 0.12], 0, atol=4.5 / np.sqrt(4000))
    np.testing.assert_allclose(x.std(0), [2.4, 0.12], rtol=4.5 / np.sqrt(2 * 4000))


def test_the_bound_visits_as_many_times_as_the_config_says(runs):
    """Calls of the model are counted as the program runs: 99 of T = 100 steps have a KL term."""
    units = standardization.Standardization(np.array([100.0, -5.0]), np.array([3.0, 0.1]))
    run = normal_run(runs["vectors"], [0.2, -0.1], [0.8, 1.2], units)
    laws = [NormalDist(100 + 3 * 0.2, 3 * 0.8), NormalDist(-5 - 0.1 * 0.1, 0.1 * 1.2)]
    exact = np.array([sum(np.log(law.pdf(v)) for law, v in zip(laws, row, strict=True)) for row in VECTORS[:50]])
    calls = []

    def denoise(x_t, t, denoise=run.model.denoise):
        jax.debug.callback(lambda: calls.append(1))
        return denoise(x_t, t)

    counted = dataclasses.replace(run.model, denoise=denoise)
    for num_times, expected in ((0, 99), (10, 10)):
        settings = dataclasses.replace(run.experiment.evaluate, num_times=num_times)
        experiment = run.experiment._replace(evaluate=settings, model=lambda params, key=None: counted)
        k = dpm_jax.Run(experiment, {}, units, 0).bound(KEY, VECTORS[:50], num_draws=8)
        jax.effects_barrier()
        assert len(calls) == expected
        assert abs((k.value - exact).mean()) < 4 * np.sqrt((k.stderr**2).mean() / 50)
        calls.clear()


def test_of_integers_it_is_their_probability(runs):
    units = standardization.Standardization(np.array([10.5]), np.array([1.5]), integers=np.array([True]))
    run = normal_run(runs["vectors"], [0.0], [1.0], units)
    law, values = NormalDist(10.5, 1.5), np.arange(8, 14)
    probabilities = [law.cdf(v + 1) - law.cdf(v) for v in values]
    found = run.log_likelihood(KEY, values[:, None], k=2000)
    np.testing.assert_allclose(found.value, np.log(probabilities), atol=4 * found.stderr.max() + 2e-3)
    # Each trajectory has its own noise of dequantisation, whose spread the error shows.
    assert (found.stderr > 2e-4).all()
    inside = (np.arange(1000) + 0.5) / 1000
    averaged = [np.mean([np.log(law.pdf(v + u)) for u in inside]) for v in values]
    k = run.bound(KEY, values[:, None], num_draws=2000)
    assert (np.abs(k.value - averaged) < 4 * k.stderr + 2e-3).all()
    assert (k.value < np.log(probabilities) + 4 * k.stderr).all()
    per_dim = run.bits_per_dim(KEY, values[:, None], num_draws=2000)
    np.testing.assert_allclose(per_dim.value, -k.value / np.log(2), atol=1e-9)


def test_of_bits_it_is_the_enumerated_probability(runs):
    run, strings = runs["bits"], BITS[:10]
    index = strings @ (2 ** np.arange(6)[::-1])
    exact = np.asarray(likelihood.enumerate_bits(run.model, 6)[1], np.float64)[index]
    found = run.log_likelihood(KEY, strings, k=500)
    assert (np.abs(found.value - exact) < 4.5 * found.stderr + 1e-3).all()
    assert run.bound(KEY, strings, num_draws=4).value.mean() < exact.mean() + 0.05


# --- Units ---


def test_a_change_of_scale_changes_densities_by_its_volume(runs):
    run = runs["vectors"]
    units = run.standardization
    wide = dpm_jax.Run(run.experiment, run.params, units._replace(mean=units.mean * 4, scale=units.scale * 4), run.step)
    for name in ("bound", "log_likelihood"):
        ours, theirs = getattr(run, name)(KEY, VECTORS[:9]), getattr(wide, name)(KEY, 4 * VECTORS[:9])
        np.testing.assert_allclose(theirs.value, ours.value - 2 * np.log(4), rtol=0, atol=1e-9)
        np.testing.assert_array_equal(theirs.stderr, ours.stderr)


def test_standardize_and_back(runs):
    x = runs["vectors"].standardize(VECTORS)
    assert x.shape == (200, 2)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.std(x, axis=0), 1, atol=0.1)
    np.testing.assert_allclose(runs["vectors"].destandardize(x), VECTORS, rtol=1e-5)
    for key in (None, KEY):
        x = runs["pixels"].standardize(PIXELS, key)
        assert x.shape == (60, 8, 8, 1)
        np.testing.assert_array_equal(runs["pixels"].destandardize(x)[..., 0], PIXELS)
    assert runs["pixels"].standardize(PIXELS[0]).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="examples are"):
        runs["vectors"].destandardize(np.zeros((3, 5)))


@pytest.mark.parametrize("name", DATA)
def test_the_bound_is_below_the_log_likelihood(runs, name):
    run, x = runs[name], DATA[name][:20]
    k, log_p = run.bound(KEY, x, num_draws=4), run.log_likelihood(OTHER_KEY, x, k=20)
    assert k.value.shape == k.stderr.shape == log_p.value.shape == log_p.stderr.shape == (20,)
    assert np.isfinite([k.value, k.stderr, log_p.value, log_p.stderr]).all()
    error = np.sqrt((k.stderr**2 + log_p.stderr**2).sum()) / 20
    assert k.value.mean() < log_p.value.mean() + 3 * error


def test_bits_per_dim_of_pixels_is_minus_k(runs):
    k, per_dim = (getattr(runs["pixels"], name)(KEY, PIXELS[:5]) for name in ("bound", "bits_per_dim"))
    np.testing.assert_allclose(per_dim.value, -k.value / (64 * np.log(2)), rtol=1e-9)
    np.testing.assert_allclose(per_dim.stderr, k.stderr / (64 * np.log(2)), rtol=1e-9)
    of_bits = runs["bits"].bits_per_dim(KEY, BITS[:5])
    np.testing.assert_allclose(of_bits.value, -runs["bits"].bound(KEY, BITS[:5]).value / (6 * np.log(2)), rtol=1e-9)


# --- Samples ---


def test_samples_are_in_the_data_s_units(runs):
    assert runs["pixels"].shape == (8, 8, 1)
    x = runs["pixels"].sample(KEY, 3)
    assert x.shape == (3, 8, 8, 1)
    assert x.dtype == np.uint8
    bits = runs["bits"].sample(KEY, 5)
    assert bits.shape == (5, 6)
    assert np.isin(bits, (0, 1)).all()
    points = runs["vectors"].sample(KEY, 500)
    assert points.dtype == np.float64
    np.testing.assert_allclose((points.mean(0) - [100, -5]) / [3, 0.1], 0, atol=0.5)
    np.testing.assert_array_equal(points[:100], runs["vectors"].sample(KEY, 500)[:100])
    short = runs["vectors"].sample(KEY, 7, num_steps=3, eta=0.0)
    assert short.shape == (7, 2)
    assert not np.allclose(short, points[:7])


def test_what_was_observed_stays_and_one_example_has_no_batch_axis(runs):
    run = runs["pixels"]
    mask = np.arange(8) < 4
    mask = np.broadcast_to(mask, (8, 8))
    seen = np.where(mask, PIXELS[:2], np.nan)
    x = run.sample(KEY, 3, given=run.observed(seen, mask))
    assert x.shape == (2, 3, 8, 8, 1)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x[..., 0][..., mask], np.broadcast_to(PIXELS[:2, None], (2, 3, 8, 8))[..., mask])
    assert len(np.unique(x[0, :, :, 7, 0])) > 4
    assert run.sample(KEY, 3, given=run.observed(seen[0], mask)).shape == (3, 8, 8, 1)
    points = runs["vectors"]
    # In the second coordinate, of deviation 0.1, noise of 0.05 leaves 0.045; in the first, of 3, next to nothing.
    x = points.sample(KEY, 400, given=points.noisy(VECTORS[:2], 0.05))
    assert x.shape == (2, 400, 2)
    apart = (x - VECTORS[:2, None]).std(axis=1)
    assert (apart[:, 0] < 0.5).all()
    assert (apart[:, 1] > 0.025).all()
    assert (apart[:, 1] < 0.075).all()
    weighted = points.sample(KEY, 4, given=points.observed(VECTORS[0], [True, False]), num_particles=20, how="denoised")
    assert weighted.shape == (4, 2)
    np.testing.assert_allclose(weighted[:, 0], VECTORS[0, 0], rtol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_one_example_has_no_batch_axis(runs, name):
    run, x = runs[name], DATA[name][:1]
    for method in (run.bound, run.log_likelihood) if name == "vectors" else (run.bound,):
        alone, batch = method(KEY, x[0]), method(KEY, x)
        assert alone.value.shape == alone.stderr.shape == ()
        assert alone.value == batch.value[0]
        assert alone.stderr == batch.stderr[0]


def test_chunks_bound_memory_and_not_the_result(runs, monkeypatch):
    run = dpm_jax.Run(runs["bits"].experiment, runs["bits"].params, runs["bits"].standardization, 0)
    whole = run.bound(KEY, BITS, num_draws=8)
    monkeypatch.setattr(sys.modules["dpm_jax.run"], "_BOUND_CHUNK", 37)
    parts = run.bound(KEY, BITS, num_draws=8)
    assert parts.value.shape == (200,)
    # The noise depends on how examples are cut up, what it estimates does not.
    assert not np.array_equal(parts.value, whole.value)
    assert abs((parts.value - whole.value).mean()) < 4 * np.sqrt((parts.stderr**2 + whole.stderr**2).sum()) / 200
    assert np.corrcoef(parts.value, whole.value)[0, 1] > 0.8


# --- Refusals ---


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("vectors", np.zeros((4, 3)), r"shape \(4, 3\); the model takes \(N, 2\)"),
        ("vectors", np.array([[np.nan, 0.0]]), "finite numbers"),
        ("vectors", np.zeros((0, 2)), "empty"),
        ("vectors", np.array([["a", "b"]]), "real numbers"),
        ("bits", np.full((2, 6), 0.5), "bits are needed"),
        ("pixels", np.full((2, 8, 8), 256), "integers from 0 to 255"),
        ("pixels", np.full((2, 8, 8), -1), "integers from 0 to 255"),
        ("pixels", np.full((2, 8, 8), 0.5), "integers from 0 to 255"),
        ("pixels", np.zeros((2, 8, 8, 3)), "the model takes"),
        ("pixels", np.zeros((4, 4)), "the model takes"),
    ],
)
def test_what_no_example_is_is_refused_in_one_line(runs, name, x, message):
    for method in (runs[name].bound, runs[name].log_likelihood):
        with pytest.raises(ValueError, match=message) as refusal:
            method(KEY, x)
        assert "\n" not in str(refusal.value)


def test_arguments_out_of_range_are_refused_by_name(runs, tmp_path):
    run = runs["vectors"]
    given = run.noisy(VECTORS[0], 0.1)
    calls = [
        (lambda: run.bits_per_dim(KEY, VECTORS), "real numbers"),
        (lambda: run.bound(KEY, VECTORS, num_draws=0), "num_draws"),
        (lambda: run.log_likelihood(KEY, VECTORS, k=0), "k: "),
        (lambda: run.sample(KEY, 0), "num: "),
        (lambda: run.sample(KEY, 2, num_steps=11), "num_steps"),
        (lambda: run.sample(KEY, 2, eta=1.5), "eta"),
        (lambda: run.sample(KEY, 2, size=16), "size: is for images"),
        (lambda: run.sample(KEY, 2, how="guided"), "given"),
        (lambda: run.sample(KEY, 2, given=given, eta=0.0), "renoised"),
        (lambda: run.noisy(VECTORS, -1.0), "sigma"),
        (lambda: runs["bits"].noisy(BITS, 0.7), "sigma"),
        (lambda: runs["bits"].sample(KEY, 2, eta=0.5), "DDIM"),
        (lambda: run.observed(VECTORS, [True, True]), "mask hides nothing"),
        (lambda: run.observed(VECTORS, [True, False, True]), "mask has shape"),
        (lambda: dpm_jax.fit(np.zeros(5), tmp_path / "one"), r"\[N, d\]"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_cold_chain_is_sampled_and_has_no_likelihood():
    config = config_lib.default()
    fields = {
        "kernel": "cold",
        "train.objective": "restoration",
        "num_timesteps": 4,
        "data.name": "dead_leaves",
        "network.name": "unet",
        "network.unet.features": (8,),
        "network.unet.attention": False,
    }
    config.update_from_flattened_dict(fields)
    built = build.experiment(config, (8, 8, 1))
    run = dpm_jax.Run(built, built.init(KEY), standardization.of_pixels(100.0, 900.0, 256), 0)
    x = run.sample(KEY, 2)
    assert x.shape == (2, 8, 8, 1)
    assert x.dtype == np.uint8
    for call in (run.bound, run.bits_per_dim, run.log_likelihood):
        with pytest.raises(ValueError, match="cold chain has no likelihood"):
            call(KEY, x)
    for arguments in ({"num_steps": 2}, {"eta": 0.0}, {"given": run.noisy(x, 9.0)}):
        with pytest.raises(ValueError, match="cold chain"):
            run.sample(KEY, 2, **arguments)


# --- fit and load ---


@pytest.mark.parametrize("name", DATA)
def test_load_gives_what_fit_gave(runs, folder, name):
    run, again = runs[name], dpm_jax.load(folder / name)
    assert (again.step, again.shape) == (run.step, run.shape) == (STEPS[name], run.shape)
    assert again.config.to_json() == run.config.to_json()
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)


def test_a_loaded_run_does_what_the_fitted_one_does(runs, folder):
    run = runs["bits"]
    again = dpm_jax.load(str(folder / "bits"), "best")
    np.testing.assert_array_equal(again.sample(KEY, 4), run.sample(KEY, 4))
    np.testing.assert_array_equal(again.bound(KEY, BITS[:4]).value, run.bound(KEY, BITS[:4]).value)
    assert dpm_jax.load(folder / "bits", checkpoint=300).step == 300
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        dpm_jax.load(folder / "bits", checkpoint=7)
    with pytest.raises(UserError, match="not a workdir"):
        dpm_jax.load(folder / "none")


def test_fit_goes_on_and_keeps_to_its_data(tmp_path, capsys):
    file, where = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(
        "from dpm_jax.training import config\n\ndef get_config():\n    c = config.default()\n"
        "    c.num_timesteps = 5\n    c.network.time_mlp.features = (4,)\n    c.train.batch_size = 16\n    return c\n"
    )
    assert dpm_jax.fit(VECTORS, where, config=file, steps=5).step == 5
    run = dpm_jax.fit(VECTORS, where, config=file, steps=8)
    assert run.step == 8
    assert run.model.num_timesteps == run.config.num_timesteps == 5
    assert "resuming from step 5" in capsys.readouterr().out
    with pytest.raises(UserError, match="belongs to other data"):
        dpm_jax.fit(VECTORS + 1, where, config=file, steps=8)
    with pytest.raises(UserError, match="belongs to another config"):
        dpm_jax.fit(VECTORS, where, config=file, steps=8, seed=1)
    with pytest.raises(UserError, match=r"--config: there is no file or config 'none_such'"):
        dpm_jax.fit(VECTORS, where, config="none_such")
    with pytest.raises(UserError, match="NaN"):
        dpm_jax.fit(np.full((20, 2), np.nan), tmp_path / "nan")
    # What was refused has not taken the folder.
    with pytest.raises(UserError, match="kernel 'binomial' needs"):
        dpm_jax.fit(VECTORS, tmp_path / "nan", config=quick(BITS))
    assert not (tmp_path / "nan" / "config.json").exists()


@pytest.mark.parametrize(
    ("data", "kernel", "shape"),
    [
        (BITS, "binomial", (6,)),
        (BITS.astype(int), "binomial", (6,)),
        (VECTORS, "gaussian", (2,)),
        (RNG.normal(size=(30, 20)), "gaussian", (20,)),
        (PIXELS, "gaussian", (8, 8, 1)),
        (RNG.random((30, 6, 10, 3)), "gaussian", (6, 10, 3)),
        (RNG.random((30, 5, 7)), "gaussian", (5, 7, 1)),
    ],
)
def test_defaults_fit_every_kind_of_data(data, kernel, shape, tmp_path):
    config = defaults.for_data(data)
    assert config.kernel == kernel
    np.save(tmp_path / "data.npy", data)
    config.data.name, config.data.file.path = "file", "data.npy"
    source = build.source(config, str(tmp_path), report=lambda line: None)
    assert source.shape == shape
    params = jax.eval_shape(build.experiment(config, shape).init, KEY)
    assert jax.tree.leaves(params)


def test_importing_brings_jax_and_numpy_alone():
    script = (
        "import sys, dpm_jax\n"
        "assert {'Run', 'fit', 'load'} <= set(dir(dpm_jax))\n"
        "assert not {'flax', 'optax', 'orbax', 'matplotlib', 'ml_collections'} & set(sys.modules)\n"
        "assert dpm_jax.load.__module__ == 'dpm_jax.run'\n"
        "assert 'flax' in sys.modules\n"
        "assert not hasattr(dpm_jax, 'none_such')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


# --- Commands ---


def run_command(script, *arguments, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def test_evaluate_scores_a_user_s_examples(runs, folder, tmp_path):
    np.save(tmp_path / "mine.npy", np.concatenate([VECTORS[:6], [[130.0, -5.0]]]))
    done = run_command(
        "evaluate.py", f"--workdir={folder / 'vectors'}", "--examples=mine.npy", "--ais_k=5", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with (folder / "vectors" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["example"] for row in rows] == [str(i) for i in range(7)]
    assert set(rows[0]) == {"example", "bound_bits", "bound_stderr_bits", "ais_bits", "ais_stderr_bits"}
    bound = np.array([float(row["bound_bits"]) for row in rows])
    # The outlier is the least likely, and the table says so.
    assert bound.argmin() == 6
    assert "example 6" in done.stdout.split("least likely")[1].splitlines()[1]
    with np.load(folder / "vectors" / "scores.npz") as arrays:
        assert int(arrays["step"]) == 300
        np.testing.assert_allclose(arrays["bound_bits"], bound, rtol=1e-4)
    k = runs["vectors"].bound(KEY, VECTORS[:6], num_draws=20)
    errors = np.hypot(k.stderr / np.log(2), [float(row["bound_stderr_bits"]) for row in rows[:6]])
    assert (np.abs(bound[:6] - k.value / np.log(2)) < 6 * errors).all()


def test_evaluate_scores_images_and_refuses_others(runs, folder, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(PIXELS[i]).save(tmp_path / "images" / f"{i}.png")
    done = run_command("evaluate.py", f"--workdir={folder / 'pixels'}", "--examples=images", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "pixels" / "scores.npz") as arrays:
        assert arrays["bits_per_dim"].shape == (3,)
        np.testing.assert_allclose(arrays["bits_per_dim"], -arrays["bound_bits"] / 64)
        assert arrays["names"].tolist() == ["0.png", "1.png", "2.png"]
    done = run_command("evaluate.py", f"--workdir={folder / 'vectors'}", "--examples=images", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: --examples: images has shape (3, 8, 8, 1); the model takes (N, 2)" in done.stderr


def test_evaluate_finds_the_data_of_fit_and_compares_two_runs(runs, folder, tmp_path):
    dpm_jax.fit(VECTORS, folder / "short", config=quick(VECTORS), steps=5, report=lambda line: None)
    where = [f"--workdir={folder / 'vectors'}", "--num_examples=20"]
    done = run_command("evaluate.py", *where, f"--against={folder / 'short'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = strict_json.parse((folder / "vectors" / "comparison.json").read_text())
    assert (folder / "vectors" / "comparison.png").stat().st_size > 0
    assert found["num_examples"] == 20
    assert found["steps"] == [300, 5]
    np.testing.assert_allclose(found["difference_bits"], np.subtract(*found["bound_bits"]), atol=1e-6)
    assert found["difference_bits"] != 0
    # The examples and the noise are the same, so that most of the errors cancel.
    assert 0 < found["difference_stderr_bits"] < 0.5 * np.hypot(*found["bound_stderr_bits"])
    done = run_command("evaluate.py", *where, f"--against={folder / 'bits'}", cwd=tmp_path)
    assert done.returncode == 2
    assert "was trained on data of shape (6,)" in done.stderr


def test_sample_writes_image_files(runs, folder, tmp_path):
    done = run_command("sample.py", f"--workdir={folder / 'pixels'}", "--png", "--out=drawn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "64 samples" in done.stdout
    files = sorted((tmp_path / "drawn").glob("[0-9]*.png"))
    assert [file.name for file in files] == [f"{i:04d}.png" for i in range(64)]
    with np.load(tmp_path / "drawn" / "samples.npz") as arrays:
        np.testing.assert_array_equal(np.asarray(Image.open(files[3])), arrays["samples"][3, :, :, 0])
    done = run_command("sample.py", f"--workdir={folder / 'vectors'}", "--png", "--out=drawn", cwd=tmp_path)
    assert done.returncode == 2
    assert "--png: is for images" in done.stderr
