"""Losses beside the bound, against closed forms, brute force and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpm_jax import (
    Bernoulli,
    Binomial,
    FullNormal,
    Gaussian,
    Model,
    Normal,
    bound,
    objectives,
    optimal,
    predictions,
    schedules,
    timesteps,
)
from tests.programs import equations

KEY = jax.random.key(0)
LINEAR = Gaussian(schedules.linear(50))


@pytest.mark.parametrize(("edge", "first"), [("forward", 2), ("decoder", 1)])
def test_simple_is_the_error_of_the_noise_at_every_time(edge, first):
    """Use a network that knows the noise and adds an error known for each t; each t is visited once."""
    x_0 = jnp.array([0.3, -1.0, 2.0])
    error = lambda t: jnp.sin(0.1 * t)[:, None] * jnp.array([1.0, -2.0, 0.5])  # noqa: E731

    def network(x, t):
        alpha_bar, sigma2 = (values[t][:, None] for values in (LINEAR.schedule.alpha_bar, LINEAR.schedule.sigma2))
        return (x - jnp.sqrt(alpha_bar) * x_0) / jnp.sqrt(sigma2) + error(t)

    model = predictions.gaussian(LINEAR, network, prediction="epsilon", variance="small")
    t = jnp.arange(first, 51)
    loss = objectives.simple(KEY, model, jnp.broadcast_to(x_0, (len(t), 3)), edge=edge)
    np.testing.assert_allclose(loss, np.mean(np.asarray(error(t), np.float64) ** 2), rtol=2e-3)


def test_simple_is_the_same_of_every_prediction_and_law():
    x_0 = jax.random.normal(jax.random.key(1), (32, 2))
    v_of = lambda x, t: jnp.cos(x)  # noqa: E731

    def loss(prediction):
        def network(x, t):
            return predictions.convert(LINEAR.schedule, v_of(x, t), x, t, source="v", target=prediction)

        model = predictions.gaussian(LINEAR, network, prediction=prediction, variance="large")
        if prediction == "v":
            model = Model.from_steps(LINEAR, lambda x, t, steps=model.reverse: FullNormal.of(steps(x, t)))
        return objectives.simple(KEY, model, x_0)

    losses = [float(loss(prediction)) for prediction in ("v", "epsilon", "x_0", "residual", "perturbation")]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


def test_the_best_simple_loss_of_normal_data_is_in_closed_form():
    """For data N(0, s^2) the best guess of eps leaves alpha_bar s^2 / (alpha_bar s^2 + sigma^2) of its variance."""
    s2 = 0.3
    model = optimal.normal(LINEAR, jnp.zeros(2), s2 * jnp.eye(2))
    x_0 = jnp.sqrt(s2) * jax.random.normal(jax.random.key(1), (200_000, 2))
    alpha_bar, sigma2 = (np.asarray(a, np.float64)[2:] for a in (LINEAR.schedule.alpha_bar, LINEAR.schedule.sigma2))
    expected = np.mean(alpha_bar * s2 / (alpha_bar * s2 + sigma2))
    loss = jax.jit(lambda key, x_0: objectives.simple(key, model, x_0))(KEY, x_0)
    assert abs(float(loss) - expected) < 3e-3


def test_hybrid_teaches_the_mean_by_simple_and_the_variance_by_the_bound():
    x_0 = jax.random.normal(jax.random.key(1), (64, 2))

    def model(w):
        def network(x, t):
            return jnp.concatenate([w[0] * jnp.sin(x), w[1] * jnp.ones_like(x)], -1)

        return predictions.gaussian(LINEAR, network, prediction="epsilon", variance="interpolated")

    losses = {
        "hybrid": lambda w, key: objectives.hybrid(key, model(w), x_0, weight=0.01),
        "simple": lambda w, key: objectives.simple(key, model(w), x_0),
        "estimate": lambda w, key: -bound.estimate(key, model(w), x_0).mean,
    }
    w, keys = jnp.array([0.4, 0.2]), jax.random.split(KEY, 1000)
    slopes = jax.jit(lambda: {name: jax.vmap(jax.grad(loss), (None, 0))(w, keys) for name, loss in losses.items()})()
    hybrid, simple, estimate = (np.asarray(slopes[name]) for name in losses)
    np.testing.assert_allclose(hybrid[:, 0], simple[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(simple[:, 1], 0, atol=1e-6)
    # On average: the draws of K are others. Two dimensions, and K's terms without a variance have no slope in it.
    one, other = hybrid[:, 1], 0.01 * estimate[:, 1] / 2
    error = np.hypot(one.std(), other.std()) / np.sqrt(1000)
    assert abs(one.mean() - other.mean()) < 4 * error < 0.3 * abs(one.mean())


def test_hybrid_adds_minus_the_log_probability_of_a_decoder():
    """With T = 1, log p(x_0 | x_1) is all of K that a variance enters; here by SciPy, at the x_1 that the key makes."""
    process, x_0 = Gaussian(schedules.linear(1, beta_1=0.3)), jax.random.normal(jax.random.key(1), (16, 2))
    model = Model.from_steps(process, lambda x, t: Normal(jnp.sin(x), jnp.exp(x)))
    losses = jax.jit(
        lambda: (
            objectives.hybrid(KEY, model, x_0, edge="decoder", weight=1.0),
            objectives.simple(KEY, model, x_0, edge="decoder"),
        )
    )
    hybrid, simple = losses()
    eps = jax.random.normal(jax.random.split(KEY)[1], (16, 2))
    x_1 = np.sqrt(0.7) * np.asarray(x_0, np.float64) + np.sqrt(0.3) * np.asarray(eps, np.float64)
    log_p = scipy.stats.norm.logpdf(x_0, np.sin(x_1), np.exp(x_1 / 2)).sum(1).mean()
    np.testing.assert_allclose(hybrid - simple, -log_p / 2, rtol=1e-4)


@pytest.mark.parametrize("edge", ["forward", "decoder"])
def test_hybrid_calls_the_model_once(edge):
    @jax.jit
    def network(x_t, t):
        return jnp.concatenate([jnp.sin(x_t), x_t], -1)

    model = predictions.gaussian(LINEAR, network, prediction="epsilon", variance="interpolated")
    program = jax.make_jaxpr(lambda key, x: objectives.hybrid(key, model, x, edge=edge))(KEY, jnp.zeros((7, 2)))
    calls = [equation for equation, _ in equations(program.jaxpr) if equation.params.get("name") == "network"]
    assert [call.invars[0].aval.shape for call in calls] == [(7, 2)]


def test_sample_mse_of_normals_by_drawing():
    """The closed form against the mean over draws of x and x'."""
    model = predictions.gaussian(LINEAR, lambda x, t: jnp.concatenate([jnp.sin(x), x], -1))
    x_0 = jnp.broadcast_to(jnp.array([0.3, -1.0]), (40_000, 2))
    got = float(objectives.sample_mse(KEY, model, x_0))
    t = timesteps.low_discrepancy(jax.random.key(2), 40_000, 50).t
    x_t = LINEAR.marginal(x_0, t).sample(jax.random.key(3))
    x = LINEAR.posterior(x_0, x_t, t).sample(jax.random.key(4))
    y = model.reverse(x_t, t).sample(jax.random.key(5))
    drawn = np.asarray((x - y) ** 2).mean(1)
    assert abs(got - drawn.mean()) < 5 * drawn.std() / np.sqrt(len(drawn))


def test_sample_mse_of_bits_is_how_often_they_differ():
    """Compare with the fraction of bits that differ between samples, with equally many at each t."""
    process, n = Binomial(schedules.erase(6)), 5 * 8000
    x_0 = jnp.broadcast_to(jnp.array([1.0, 0.0, 1.0]), (n, 3))
    model = predictions.binomial(process, lambda x, t: 2 * x - 0.3)
    got = float(jax.jit(lambda: objectives.sample_mse(KEY, model, x_0))())
    t = 2 + jnp.arange(n) % 5
    x_t = process.marginal(x_0, t).sample(jax.random.key(3))
    x = process.posterior(x_0, x_t, t).sample(jax.random.key(4))
    y = model.reverse(x_t, t).sample(jax.random.key(5))
    differ = np.asarray(x != y, float).mean(1)
    assert abs(got - differ.mean()) < 5 * differ.std() / np.sqrt(n)


def test_sample_mse_wants_the_narrowest_law():
    """Its gradient narrows a variance that is right, and the gradient of K does not."""
    s2, process = 0.5, Gaussian(schedules.geometric(20, beta_1=1e-3))
    exact = optimal.normal(process, jnp.zeros(1), s2 * jnp.eye(1))
    x_0 = jnp.sqrt(s2) * jax.random.normal(jax.random.key(1), (50_000, 1))

    def widened(log_scale):
        def steps(x, t):
            p = exact.reverse(x, t)
            return Normal(p.mean, (p.scale_tril[..., 0] * jnp.exp(log_scale)) ** 2)

        return Model.from_steps(process, steps)

    mse = jax.jit(jax.grad(lambda c: objectives.sample_mse(KEY, widened(c), x_0)))(0.0)
    of_bound = jax.jit(jax.grad(lambda c: -bound.estimate(KEY, widened(c), x_0).mean))
    assert float(mse) > 0.01
    assert abs(float(of_bound(0.0))) < 0.3  # 19 terms, each of second derivative 2
    assert float(of_bound(-0.2)) < -2


OBJECTIVES = {
    "bound": lambda key, model, x: -bound.estimate(key, model, x).mean,
    "simple": objectives.simple,
    "hybrid": objectives.hybrid,
    "sample_mse": objectives.sample_mse,
}


@pytest.mark.parametrize("T", [2, 1000])
def test_gradients_shapes_and_dtypes_of_every_objective(T):
    """Under jit and vmap, one trace, gradients against finite differences."""
    process = Gaussian(schedules.linear(T, beta_1=1e-3, beta_final=0.02))
    normals = jax.random.normal(jax.random.key(1), (32, 2))
    cases = [(name, law) for name in OBJECTIVES for law in ("normal", "full", "bits")]
    cases = [case for case in cases if case not in {("simple", "bits"), ("hybrid", "bits")}]
    traces = []

    def model(w, law):
        if law == "bits":
            return predictions.binomial(Binomial(schedules.erase(T)), lambda x, t: w * (2 * x - 1))
        if law == "full":
            outputs = lambda x, t: jnp.concatenate([w * x, jnp.full((len(x), 3), w)], -1)  # noqa: E731
            return predictions.full_gaussian(process, outputs, prediction="v")
        outputs = lambda x, t: jnp.concatenate([w * x, jnp.full_like(x, w)], -1)  # noqa: E731
        return predictions.gaussian(process, outputs, prediction="epsilon", variance="interpolated")

    def losses(w, key):
        traces.append(0)
        for name, law in cases:
            x_0 = (normals > 0).astype(jnp.float32) if law == "bits" else normals
            loss = lambda w, name=name, law=law, x_0=x_0: OBJECTIVES[name](key, model(w, law), x_0)  # noqa: E731
            yield jax.value_and_grad(loss)(w)

    run = jax.jit(jax.vmap(lambda w, key: list(losses(w, key))))
    h = 1e-2
    w, keys = jnp.array([0.1, 0.3]), jax.random.split(KEY, 2)
    found, up, down = run(w, keys), run(w + h, keys), run(w - h, keys)
    assert len(traces) == 1
    for (name, law), (value, gradient), (above, _), (below, _) in zip(cases, found, up, down, strict=True):
        assert value.dtype == gradient.dtype == jnp.float32
        assert value.shape == gradient.shape == (2,)
        assert np.isfinite(value).all(), (name, law)
        assert np.isfinite(gradient).all(), (name, law)
        if name != "hybrid":  # a stopped gradient is not that of the value
            atol = 2e-3 * float(jnp.abs(value).max())
            np.testing.assert_allclose(
                gradient, (above - below) / (2 * h), rtol=3e-2, atol=atol, err_msg=f"{name} {law}"
            )


def test_kinds_of_laws_have_their_variances():
    tril = jnp.array([[[0.5, 0.0], [0.3, 0.4]]])
    np.testing.assert_allclose(FullNormal(jnp.zeros((1, 2)), tril).variance, [[0.25, 0.25]], rtol=1e-6)
    logits = jnp.array([[0.7, -jnp.inf, 50.0]])
    rate = 1 / (1 + np.exp(-0.7))
    np.testing.assert_allclose(Bernoulli(logits).variance, [[rate * (1 - rate), 0, 0]], atol=1e-6)
