"""Particles against the exact posterior of the model, in float64.

Of chains of few steps, with guesses that are far from exact: what remains is for the weights to correct.
The estimate of Z and Z times a weighted mean are unbiased for any number of particles; so small groups of
particles, each with its own noise, are averaged, and their scatter gives the error bars.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from dpm_jax import binomial, gaussian, optimal, particles, posterior, predictions, schedules
from dpm_jax.binomial import Bernoulli
from dpm_jax.gaussian import Normal
from tests.chains import STRINGS, bits_law, conditioned, normal_chain, normal_law, string_law

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan
T = 8
SCHEDULE = schedules.geometric(T, beta_1=1e-2)
full_model, diagonal_model = normal_chain(SCHEDULE, np.array([0.3, -0.2]), np.array([[1.2, 0.6], [0.6, 0.7]]))
GROUPS, PARTICLES = 240, 24


def standard_model(schedule):
    """The reverse function of standard normal data: zero outputs."""
    return lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((*x.shape[:-1], 2 * x.shape[-1])))


def repeated(values, num_groups=GROUPS, num_particles=PARTICLES):
    """Group i has evidence i modulo how many there are, its particles next to one another."""
    values = jnp.asarray(values, jnp.float32)
    return jnp.repeat(jnp.tile(values, (num_groups // len(values), 1)), num_particles, axis=0)


def check_unbiased(result, values, log_z, expected):
    """Z and Z E f of groups with the same evidence: `values` f [groups, particles, k], its posterior mean [k]."""
    ratio = np.exp(np.asarray(result.log_evidence, float) - log_z)
    weighted = (np.exp(np.asarray(result.log_weights, float))[..., None] * values).sum(1)
    estimates = ratio[:, None] * np.concatenate([np.ones((len(ratio), 1)), weighted], axis=1)
    stderr = estimates.std(0) / np.sqrt(len(ratio))
    assert (stderr < 0.2 * np.maximum(np.abs(expected).max(), 1)).all()
    assert (np.abs(estimates.mean(0) - np.concatenate([[1.0], expected])) < 4.5 * stderr + 2e-4).all()


def moments(x):
    """x and its products, [..., d + d^2]."""
    x = np.asarray(x, float)
    return np.concatenate([x, (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], -1)], axis=-1)


def check_strings(result, joint):
    """Probabilities of strings, p(x) r(x) [32]; those that hardly come up count as one."""
    exact = joint / joint.sum()
    often = exact > 0.02
    which = (np.asarray(result.x)[:, :, None] == STRINGS).all(-1).astype(float)
    values = np.concatenate([which[..., often], which[..., ~often].sum(-1, keepdims=True)], axis=-1)
    check_unbiased(result, values, np.log(joint.sum()), np.append(exact[often], exact[~often].sum()))


def check_normal(result, law, log_z):
    mean, covariance = law
    check_unbiased(
        result, moments(result.x), log_z, np.concatenate([mean, (covariance + np.outer(mean, mean)).ravel()])
    )


def check_form(result, shape, num_groups=GROUPS, num_particles=PARTICLES, num_timesteps=T):
    assert result.x.shape == (num_groups, num_particles, *shape)
    assert result.log_weights.shape == (num_groups, num_particles)
    assert result.log_evidence.shape == (num_groups,)
    assert result.effective_size.shape == (num_timesteps + 1, num_groups)
    assert {leaf.dtype for leaf in result._replace(lost=result.tail)} == {jnp.dtype("float32")}
    assert result.stderr.shape == result.doubtful.shape == (num_groups,)
    assert result.lost.shape == result.tail.shape == result.effective_size.shape
    assert (np.asarray(result.lost) == 0).all()
    np.testing.assert_allclose(np.exp(result.log_weights).sum(1), 1, rtol=1e-4)
    sizes = np.asarray(result.effective_size)
    assert (sizes > 1 - 1e-3).all()
    assert (sizes < num_particles * (1 + 1e-3)).all()
    final = 1 / (np.exp(np.asarray(result.log_weights, float)) ** 2).sum(1)
    np.testing.assert_allclose(sizes[0], final, rtol=1e-3)


def groups_of(result, i, num):
    return particles.Particles(*(leaf[i::num] for leaf in result[:4]), *(leaf[:, i::num] for leaf in result[4:]))


def run(model, r, how, *, num_timesteps=T, schedule=SCHEDULE, kernel=gaussian, shape=(2,), **options):
    guide = posterior.guide(kernel, schedule, model, r, how)

    @jax.jit
    def sample(key):
        return particles.sample(key, kernel, guide, r, GROUPS, PARTICLES, shape, num_timesteps, **options)

    return sample(KEY)


# --- Normal posteriors ---


@pytest.mark.parametrize(
    ("model", "how"),
    [(full_model, "denoised"), (diagonal_model, "guided"), (diagonal_model, "annealed")],
    ids=["denoised", "guided", "annealed"],
)
def test_several_posteriors_each_with_its_own_evidence(model, how):
    """One coordinate known, both seen through noise, one hidden: all at once, each as if alone."""
    y = np.array([[0.9, NAN], [0.5, -0.7], [NAN, -0.9]])
    variance = np.array([[0.0, INF], [0.3, 0.5], [INF, 0.1]])
    r = Normal(repeated(y), repeated(variance))
    result = run(model, r, how)
    check_form(result, (2,))
    law = normal_law(model, T, 2)
    for i in range(3):
        seen = np.isfinite(variance[i])
        exact, log_z = conditioned(law, np.eye(2)[seen], y[i, seen], variance[i, seen])
        check_normal(groups_of(result, i, 3), exact, log_z)
    known = np.asarray(result.x[::3, :, 0])
    np.testing.assert_allclose(known, 0.9, atol=1e-3 if model is full_model else 1e-6)
    # What is resampled has fewer effective particles; some was.
    assert how == "denoised" or result.effective_size.min() < 0.5 * PARTICLES


def test_guides_that_are_exact_leave_nothing_to_weigh():
    """Full covariances of normal data: all particles weigh the same, but for the edge."""
    r = Normal(repeated([[0.9, NAN]]), repeated([[0.2, INF]]))
    result = run(full_model, r, "denoised")
    assert float(result.effective_size.mean()) > 0.9 * PARTICLES
    exact, log_z = conditioned(normal_law(full_model, T, 2), np.eye(2)[:1], np.array([0.9]), np.array([0.2]))
    check_normal(result, exact, log_z)


def test_never_resampled():
    r = Normal(jnp.array([[0.4, -0.1]]), jnp.array([[0.8, 0.9]]))
    result = run(diagonal_model, r, "denoised", threshold=0.0)
    check_form(result, (2,))
    exact, log_z = conditioned(normal_law(diagonal_model, T, 2), np.eye(2), np.array([0.4, -0.1]), np.array([0.8, 0.9]))
    check_normal(result, exact, log_z)


def test_linear_evidence():
    operator = np.array([[0.5, -1.0]])
    linear = jnp.asarray(operator.T, jnp.float32)
    r = posterior.Linear(lambda x: x @ linear, jnp.array([[0.8]]), 0.2)
    result = run(diagonal_model, r, "matched")
    check_form(result, (2,))
    exact, log_z = conditioned(normal_law(diagonal_model, T, 2), operator, np.array([0.8]), np.array([0.2]))
    check_normal(result, exact, log_z)


def test_a_half_plane():
    """log r = log sigmoid, against sums over a grid."""
    result = run(diagonal_model, lambda x: jax.nn.log_sigmoid(4 * (x[:, 1] - x[:, 0])), "guided")
    check_form(result, (2,))
    mean, covariance = normal_law(diagonal_model, T, 2)
    axis = np.linspace(-6, 6, 401)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) + mean
    density = np.exp(-0.5 * np.einsum("ni,ij,nj->n", x - mean, np.linalg.inv(covariance), x - mean))
    joint = density / density.sum() * expit(4 * (x[:, 1] - x[:, 0]))
    check_unbiased(result, moments(result.x), np.log(joint.sum()), joint @ moments(x) / joint.sum())


def test_a_single_step():
    schedule = schedules.geometric(1, beta_1=0.3)
    model = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.full((len(x), 2), 0.3))  # noqa: E731
    r = Normal(jnp.array([[0.8]]), jnp.array([[0.4]]))
    result = run(model, r, "denoised", schedule=schedule, num_timesteps=1, shape=(1,))
    check_form(result, (1,), num_timesteps=1)
    exact, log_z = conditioned(normal_law(model, 1, 1), np.eye(1), np.array([0.8]), np.array([0.4]))
    check_normal(result, exact, log_z)


# --- Whether the estimates can be believed ---


@pytest.mark.parametrize(
    ("how", "kind", "noise", "threshold"),
    [
        ("denoised", "law", 0.2, 0.5),
        ("guided", "law", 0.2, 0.5),
        ("guided", "law", 0.2, 0.95),
        ("guided", "function", 2.0, 0.5),
        ("matched", "law", 0.2, 0.5),
        ("annealed", "function", 4.0, 0.5),
        ("constant", "function", 20.0, 0.5),
    ],
)
def test_every_way_is_unbiased_and_states_its_error(how, kind, noise, threshold):
    """Over 300 repeats, of weights that need no resampling and of some that are resampled at many steps."""
    found, log_z = repeats(how, noise, threshold, kind)
    ratio = np.exp(np.asarray(found.log_evidence, float) - log_z)
    actual, stated = np.std(found.log_evidence), np.sqrt(np.mean(np.asarray(found.stderr, float) ** 2))
    resampled = (np.asarray(found.effective_size) < threshold * 200).sum(0).mean()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(300)
    assert resampled > 3 or threshold == 0.5
    assert 0.85 < stated / actual < 1.15
    assert np.mean(found.doubtful) < 0.02


@pytest.mark.parametrize("how", ["annealed", "constant"])
def test_weights_of_infinite_variance_are_doubtful(how):
    """Evidence far too strong along the chain: effective sizes look fair and most estimates are far too low."""
    found, log_z = repeats(how, 0.2, 0.5)
    assert np.median(np.exp(np.asarray(found.log_evidence, float) - log_z)) < 0.9
    assert np.median(found.effective_size.min(axis=0)) > 10
    assert np.mean(found.doubtful) > 0.5


def repeats(how, noise, threshold, kind="law"):
    """Return runs of 200 particles each, and the exact log Z."""
    T, y, variance = 20, np.array([0.4, -0.1]), np.array([noise, noise])
    schedule = schedules.geometric(T, beta_1=1e-3)
    model = normal_chain(schedule, np.array([0.3, -0.2]), np.array([[1.2, 0.6], [0.6, 0.7]]))[1]
    r = Normal(jnp.asarray(y[None], jnp.float32), jnp.asarray(variance[None], jnp.float32))
    given = r if kind == "law" else lambda x: posterior.log_likelihood(gaussian, r, x)
    guide = posterior.guide(gaussian, schedule, model, given, how, points=32)
    sample = jax.jit(lambda key: particles.sample(key, gaussian, guide, given, 300, 200, (2,), T, threshold=threshold))
    return sample(KEY), conditioned(normal_law(model, T, 2), np.eye(2), y, variance)[1]


# --- Bits ---

BITS = schedules.erase(20, beta_1=0.02)
POINTS = np.array([3, 12, 21, 30])
best_bits = optimal.finite_bits(
    BITS, jnp.asarray(STRINGS[POINTS], jnp.float32), jnp.log(jnp.array([0.4, 0.1, 0.3, 0.2], jnp.float32))
)


@pytest.mark.parametrize("how", ["denoised", "guided"])
def test_strings_of_bits_by_enumeration(how):
    """Of the model, which is not quite its data: from the matrices of all its steps, and two kinds of evidence."""
    logits = np.array([[1.0, 0.0, -2.0, 0.5, 0.0], [0.0, INF, 0.0, 0.0, -1.0]])
    r = Bernoulli(repeated(logits))
    result = run(best_bits, r, how, schedule=BITS, num_timesteps=20, kernel=binomial, shape=(5,))
    check_form(result, (5,), num_timesteps=20)
    model = bits_law(best_bits, 20)
    assert 0.5 < model[POINTS].sum() < 0.999
    for i in range(2):
        # Probabilities of what was observed; 1 where nothing was.
        joint = model * string_law(logits[i]) * 2.0 ** (logits[i] == 0).sum()
        check_strings(groups_of(result, i, 2), joint)


def test_strings_of_bits_given_a_function():
    """An odd number of ones: no evidence about each bit by itself."""
    log_r = lambda x: 0.7 * jnp.cos(jnp.pi * (x.sum(-1) - 1))  # noqa: E731
    result = run(best_bits, log_r, "annealed", schedule=BITS, num_timesteps=20, kernel=binomial, shape=(5,))
    joint = bits_law(best_bits, 20) * np.exp(0.7 * np.cos(np.pi * (STRINGS.sum(1) - 1)))
    check_strings(result, joint)


# --- Resampling ---


def test_one_particle_with_all_the_weight_is_all_that_is_drawn():
    log_weights = jnp.where(jnp.arange(6) == 4, 0.0, -INF)[None] + 300.0
    np.testing.assert_array_equal(particles._resample(KEY, log_weights, 9), 4)
    np.testing.assert_allclose(particles._effective_size(log_weights), 1, rtol=1e-5)
    np.testing.assert_allclose(particles._effective_size(jnp.full((1, 7), -500.0)), 7, rtol=1e-4)


def test_draws_are_in_proportion_and_in_random_order():
    weights = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    x = jnp.arange(6.0).reshape(2, 3, 1)
    log_weights, told = jnp.log(jnp.asarray(weights, jnp.float32)), jnp.zeros((2, 2))
    result = particles.Particles(x, log_weights, jnp.zeros(2), jnp.zeros(2), told, told, told)
    n = 4000
    drawn = jax.jit(jax.vmap(lambda key: particles.draw(key, result, 10)))(jax.random.split(KEY, n))
    assert drawn.shape == (n, 2, 10, 1)
    assert drawn.dtype == jnp.float32
    # Each place by itself is a draw: the first as the last.
    for place in (0, 9):
        counts = np.stack([(np.asarray(drawn[:, :, place, 0]) == i).mean(0) for i in range(6)])
        share = np.concatenate([np.concatenate([weights[0], np.zeros(3)]), np.concatenate([np.zeros(3), weights[1]])])
        counts = counts.T.ravel()
        assert (np.abs(counts - share) <= 5 * np.sqrt(share * (1 - share) / n)).all()
    # And ten together are as even as can be.
    np.testing.assert_array_equal((np.asarray(drawn[:, 0, :, 0]) == 2).sum(1), 7)


# --- All that JAX does to functions ---


def test_one_trace_serves_all_keys_and_evidence_and_a_map_over_them():
    schedule = schedules.geometric(4)
    model = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 4)))  # noqa: E731
    traces = []

    def sample(key, y):
        traces.append(1)
        r = Normal(y, jnp.array([[0.3, INF]]))
        guide = posterior.guide(gaussian, schedule, model, r, "denoised")
        return particles.sample(key, gaussian, guide, r, 1, 16, (2,), 4)

    keys, y = jax.random.split(KEY, 3), jnp.array([[[0.5, NAN]], [[-0.5, NAN]], [[2.0, NAN]]])
    jitted = jax.jit(sample)
    alone = [jitted(*one) for one in zip(keys, y, strict=True)]
    assert len(traces) == 1
    together = jax.jit(jax.vmap(sample))(keys, y)
    for i, one in enumerate(alone):
        for a, b in zip(one, together, strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-4, atol=1e-4)


def test_sharp_linear_evidence_does_not_kill_the_particles():
    """Noise far below the data's: a twist without the spread of x_0 given x_t would lose all of them at once."""
    T, noise = 80, 0.0025
    covariance = np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]])
    operator = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
    y = np.array([0.7, -0.4])
    schedule = schedules.geometric(T, beta_1=1e-4)
    reverse = gaussian.forward_edge(
        schedule, optimal.normal(schedule, jnp.zeros(3), jnp.asarray(covariance, jnp.float32))
    )
    r = posterior.Linear(lambda x: x @ jnp.asarray(operator.T, jnp.float32), jnp.asarray(y[None], jnp.float32), noise)
    guide = posterior.guide(gaussian, schedule, reverse, r, "matched")
    found = jax.jit(lambda key: particles.sample(key, gaussian, guide, r, 1, 1000, (3,), T))(jax.random.key(0))
    total = operator @ covariance @ operator.T + noise * np.eye(2)
    log_z = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    assert float(found.effective_size.min()) > 100
    assert abs(float(found.log_evidence[0]) - log_z) < 0.4


def test_particles_that_are_all_lost_say_so():
    schedule = schedules.geometric(5, beta_1=1e-2)
    for bad in (jnp.nan, -jnp.inf):
        r = lambda x, bad=bad: 0.0 * x.sum(-1) + bad  # noqa: E731
        guide = posterior.guide(gaussian, schedule, standard_model(schedule), r, "constant")
        found = jax.jit(lambda key, guide=guide, r=r: particles.sample(key, gaussian, guide, r, 2, 8, (2,), 5))(KEY)
        assert (np.asarray(found.log_evidence) == -np.inf).all()
        assert (np.asarray(found.effective_size)[0] == 0).all()
        assert (np.asarray(found.log_weights) == -np.inf).all()
        assert np.isnan(found.stderr).all()


@pytest.mark.parametrize("twist", [np.nan, INF, -2e7, 2e7])
def test_one_lost_particle_does_not_spoil_the_others_and_is_counted(twist):
    """A difference of numbers above 1e7 says nothing, of whatever sign they are."""
    schedule = schedules.geometric(20, beta_1=1e-2)
    r = Normal(jnp.array([[0.3, 0.0]]), jnp.array([[0.5, jnp.inf]]))

    @jax.jit
    def sample(twist):
        guide = posterior.guide(gaussian, schedule, standard_model(schedule), r, "denoised")

        def broken(x_t, t):
            step = guide(x_t, t)
            lost = jnp.where(t[0] == 10, twist, step.log_twist[3])
            return step._replace(log_twist=step.log_twist.at[3].set(lost))

        return particles.sample(jax.random.key(0), gaussian, broken, r, 1, 500, (2,), 20)

    found = sample(twist)
    exact = -0.5 * (0.3**2 / 1.5 + np.log(2 * np.pi * 1.5))
    assert abs(float(found.log_evidence[0]) - exact) < 0.02
    np.testing.assert_array_equal(found.lost[:, 0], np.arange(21) == 10)


def test_weights_of_0_are_not_lost():
    """r = 0 beyond a line: in the mean, Z is how much of the model is on this side of it."""
    schedule = schedules.geometric(6, beta_1=1e-2)
    log_r = lambda x: jnp.where(x[:, 0] > 0.5, 0.0, -jnp.inf)  # noqa: E731
    model = standard_model(schedule)
    guide = posterior.guide(gaussian, schedule, model, lambda x: 0.0 * x[:, 0], "constant")
    found = jax.jit(lambda key: particles.sample(key, gaussian, guide, log_r, 20, 500, (2,), 6))(KEY)
    ratio = np.exp(np.asarray(found.log_evidence, float)) / scipy.stats.norm.sf(0.5)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(20)
    assert (np.asarray(found.lost) == 0).all()
