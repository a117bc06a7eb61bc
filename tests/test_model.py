"""Models: wrong parts are refused by name, the network is called once, and users' own laws work."""

import dataclasses
import math

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
    ddim,
    forward_edge,
    guidance,
    likelihood,
    predictions,
    respacing,
    sampling,
    schedules,
    smc,
)

KEY = jax.random.key(0)
T = 4
REALS, BITS = Gaussian(schedules.geometric(T, beta_1=1e-2)), Binomial(schedules.erase(T, beta_1=1e-2))
X, TIMES = jnp.asarray([[0.3, -1.0], [1.2, 0.5]]), jnp.asarray([1, T])


# --- What a denoiser may return ---


@pytest.mark.parametrize(
    ("denoise", "says"),
    [
        (lambda x, t: 0.5 * x, "denoise: must return a distribution, got ArrayImpl"),
        (lambda x, t: None, "denoise: must return a distribution, got NoneType"),
        (
            lambda x, t: Normal(x[:, :1], 1.0),
            r"denoise: must return a law of shape \(2, 2\), that of x_t, got \(2, 1\)",
        ),
        (lambda x, t: Normal(x[:1], 1.0), r"denoise: must return a law of shape \(2, 2\), that of x_t, got \(1, 2\)"),
        (lambda x, t: Normal(x, 1.0, event_ndim=0), r"denoise: .* event is all of x_t but its first axis, got \(\)"),
        (
            lambda x, t: Normal(x, 1.0, event_ndim=2),
            r"denoise: .* event is all of x_t but its first axis, got \(2, 2\)",
        ),
    ],
    ids=["array", "nothing", "narrow", "few", "no event", "no batch"],
)
def test_what_is_no_law_of_x_is_refused(denoise, says):
    model = Model(REALS, denoise)
    steps = Model.from_steps(REALS, denoise)
    for call in (model.denoised, model.reverse, forward_edge(model).reverse):
        with pytest.raises(ValueError, match=says):
            call(X, TIMES)
    with pytest.raises(ValueError, match=says.replace("denoise", "steps")):
        steps.reverse(X, TIMES)
    # A function that traces it has an array of another type.
    says = says.replace("ArrayImpl", ".*Tracer")
    for call in (
        lambda: bound.evaluate(KEY, model, X),
        lambda: bound.estimate(KEY, model, X),
        lambda: sampling.sample(KEY, model, 2, (2,)),
    ):
        with pytest.raises(ValueError, match=says):
            jax.eval_shape(call)


def test_a_model_needs_something():
    with pytest.raises(ValueError, match=r"model: needs a denoiser, or steps; use Model\.from_steps"):
        Model(REALS, None)


def test_images_with_full_covariances_have_no_one_event():
    """The event of a `FullNormal` is the last axis: a law of pixels it is not."""
    model = Model(REALS, lambda x, t: FullNormal(x, jnp.eye(2)))
    with pytest.raises(ValueError, match="denoise: must return a law whose event is all of x_t"):
        model.denoised(jnp.zeros((2, 3, 2)), TIMES)


# --- Models given by their steps alone ---


STEPS = {
    "sigmoid": predictions.gaussian(
        REALS, lambda x, t: jnp.concatenate([0.3 * x, 0.1 * x], -1), prediction="epsilon", variance="sigmoid"
    ),
    "perturbation": predictions.binomial(BITS, lambda x, t: 0.3 * x, prediction="perturbation"),
}


@pytest.mark.parametrize("kind", STEPS)
def test_models_given_by_their_steps_are_bounded_and_sampled(kind):
    model = STEPS[kind]
    x_0 = jnp.asarray(np.arange(8).reshape(4, 2) % 3 == 0, jnp.float32)

    @jax.jit
    def run():
        k = bound.evaluate(KEY, model, x_0, edge="decoder").k
        return k, sampling.sample(KEY, model, 4, (2,))

    for values in run():
        assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", STEPS)
def test_what_needs_a_denoiser_refuses_them_by_name(kind):
    model, x_0 = STEPS[kind], jnp.zeros((2, 2))
    is_bits = kind == "perturbation"
    r = Bernoulli(jnp.ones((1, 2))) if is_bits else Normal(jnp.ones((1, 2)), 1.0)
    says = "given by its reverse steps alone"
    calls = [
        lambda: model.denoised(x_0, TIMES),
        lambda: respacing.respace(model, np.array([2, T])),
        lambda: respacing.costs(KEY, model, x_0),
    ]
    for how in ("denoised", "guided") if is_bits else ("denoised", "guided", "matched"):
        calls += [
            lambda how=how: guidance.condition(model, r, how),
            lambda how=how: guidance.guide(model, r, how),
            lambda how=how: smc.sample(KEY, model, r, how, 4),
        ]
    if not is_bits:
        calls.append(lambda: ddim(model, 0.5))
    for call in calls:
        with pytest.raises(ValueError, match=says) as error:
            call()
        assert "\n" not in str(error.value)
    # The other ways ask for the steps alone.
    for how in ("constant", "annealed", "renoised"):
        assert guidance.condition(model, r, how).reverse(x_0, TIMES).mean.shape == (2, 2)


# --- One call of the network a step ---


def counted(kind):
    """A model, and the list that its network adds to whenever it is traced."""
    calls = []

    def network(x, t):
        calls.append(1)
        return 0.3 * x if kind == "bits" else jnp.concatenate([0.3 * x, x, *(kind == "full") * [x[:, :1]]], -1)

    if kind == "bits":
        return predictions.binomial(BITS, network), calls
    return (predictions.full_gaussian if kind == "full" else predictions.gaussian)(REALS, network), calls


@pytest.mark.parametrize("kind", ["diagonal", "full", "bits"])
def test_the_network_is_called_once_a_step(kind):
    model, calls = counted(kind)
    x = (X > 0).astype(jnp.float32)
    law = Bernoulli(x) if kind == "bits" else Normal(x, 0.5)
    linear = guidance.Linear(lambda x: x[:, :1], x[:, :1], 0.1)
    ways = {"denoised": [law], "guided": [law, lambda x: x[:, 0]], "constant": [law], "annealed": [law]}
    ways |= {} if kind == "bits" else {"matched": [law, linear]}
    programs = {
        f"guide {how} {i}": lambda r=r, how=how: tuple(guidance.guide(model, r, how)(x, TIMES))
        for how, given in ways.items()
        for i, r in enumerate(given)
    }
    programs |= {
        f"condition {how}": lambda how=how: guidance.condition(model, law, how).reverse(x, TIMES)
        for how in ("denoised", "renoised")
    }
    programs |= {
        "reverse": lambda: model.reverse(x, TIMES),
        "laws": lambda: model.laws(x, TIMES),
        "forward edge": lambda: forward_edge(model).laws(x, TIMES),
        "multiply": lambda: guidance.multiply(model, law).reverse(x, TIMES),
        "respace": lambda: respacing.respace(model, np.array([2, T])).laws(x, jnp.array([1, 2])),
    }
    for name, program in programs.items():
        calls.clear()
        jax.eval_shape(program)
        assert len(calls) == 1, name


# --- A law of one's own ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace:
    """Independent Laplace laws: none of the package's, with what the algorithms ask of one."""

    mean: jax.Array
    scale: jax.Array

    @property
    def batch_shape(self):
        return self.mean.shape[:1]

    @property
    def event_shape(self):
        return self.mean.shape[1:]

    @property
    def variance(self):
        return 2 * self.scale**2

    def sample(self, key):
        return self.mean + self.scale * jax.random.laplace(key, self.mean.shape, jnp.float32)

    def log_prob(self, x):
        return -(jnp.abs(x - self.mean) / self.scale + jnp.log(2 * self.scale)).sum(-1)

    def entropy(self):
        return (1 + jnp.log(2 * self.scale)).sum(-1)

    def kl_from_normal(self, q):
        """The expectation of the distance of x ~ q from the mean is that of a folded normal."""
        far, sd = q.mean - self.mean, jnp.sqrt(q.variance)
        z = far / sd
        distance = sd * math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z**2) + far * jax.lax.erf(z / math.sqrt(2))
        return (distance / self.scale + jnp.log(2 * self.scale)).sum(-1) - q.entropy()


def laplace_steps(x, t):
    """Somewhat wider than the exact steps of standard normal data, and a fixed law of x_0."""
    step = REALS.forward(x, t)
    return Laplace(
        jnp.where(t[:, None] == 1, 0.5, step.mean), jnp.where(t[:, None] == 1, 0.7, 0.8 * step.variance**0.5)
    )


def test_steps_may_be_laws_of_ones_own():
    """K is the mean of log-weights, which know of the law its density alone; samples have the law of the last step."""
    model, x_0 = Model.from_steps(REALS, laplace_steps), 0.7 * jax.random.normal(KEY, (500, 2))

    @jax.jit
    def run():
        k = bound.evaluate(jax.random.key(1), model, x_0, edge="decoder").k
        estimate = bound.estimate(jax.random.key(2), model, x_0, edge="decoder", num_times=8)
        weights = likelihood.log_weights(jax.random.key(3), model, x_0, 8)
        return k, estimate, weights.mean(1), sampling.sample(jax.random.key(4), model, 4000, (2,), chunk_size=1000)

    k, estimate, weights, x = run()
    difference = np.asarray(k - weights, float)
    assert abs(difference.mean()) < 4.5 * difference.std() / np.sqrt(500)
    assert abs(float(estimate.mean - k.mean())) < 4.5 * float(estimate.stderr)
    assert scipy.stats.kstest(np.asarray(x).ravel(), scipy.stats.laplace(0.5, 0.7).cdf).pvalue > 1e-4


def test_denoisers_may_return_laws_of_ones_own():
    """The Gaussian process mixes its posteriors over the mean and the variance."""
    own = Model(REALS, lambda x, t: Laplace(0.7 * x, jnp.full(x.shape, 0.4)))
    normal = Model(REALS, lambda x, t: Normal(0.7 * x, 0.32))
    x, t = jax.random.normal(KEY, (T, 2)), jnp.arange(1, T + 1)

    @jax.jit
    def run():
        short = respacing.respace(own, np.array([2, T]), edge="decoder")
        results = []
        for model in (own, normal):
            results.append((model.reverse(x, t), bound.evaluate(KEY, model, x).k))
        return own.denoised(x, t), results, short.reverse(x[:2], t[:2])

    start, (found, expected), short = run()
    assert isinstance(start, Laplace)
    assert isinstance(short, Normal)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
