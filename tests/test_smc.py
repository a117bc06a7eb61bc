"""Particles against the exact posterior of the model, in float64.

Of chains of few steps, with guesses that are far from exact: what remains is for the weights to correct.
The estimate of Z and Z times a weighted mean are unbiased for any number of particles; so small groups of
particles, each with its own noise, are averaged, and their scatter gives the error bars.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from dpm_jax import Bernoulli, Binomial, Gaussian, Normal, forward_edge, guidance, optimal, predictions, schedules, smc
from tests.chains import STRINGS, bits_law, conditioned, normal_chain, normal_law, string_law

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan
T = 8
SCHEDULE = schedules.geometric(T, beta_1=1e-2)
full_model, diagonal_model = normal_chain(SCHEDULE, np.array([0.3, -0.2]), np.array([[1.2, 0.6], [0.6, 0.7]]))
GROUPS, PARTICLES = 240, 24


def standard_model(schedule):
    """The model of standard normal data: zero outputs."""
    return predictions.gaussian(Gaussian(schedule), lambda x, t: jnp.zeros((*x.shape[:-1], 2 * x.shape[-1])))


def tiled(values):
    """Posterior i has evidence i modulo how many there are."""
    values = jnp.asarray(values, jnp.float32)
    return jnp.tile(values, (GROUPS // len(values), 1))


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
    return smc.Particles(*(leaf[i::num] for leaf in result[:4]), *(leaf[:, i::num] for leaf in result[4:]))


def run(model, r, how, **options):
    """Samples of all groups, of evidence with a batch of them."""
    if callable(r) or isinstance(r, guidance.Linear):
        return jax.jit(lambda key: smc.sample(key, model, r, how, PARTICLES, num_posteriors=GROUPS, **options))(KEY)
    return of_laws(model, how)(KEY, r, **options)


_PROGRAMS = {}


def of_laws(model, how):
    """One program for all evidence of a way. It keeps the model, whose identity is then no other's."""
    if (id(model), how) not in _PROGRAMS:
        _PROGRAMS[id(model), how] = jax.jit(
            lambda key, r, threshold=0.5: smc.sample(key, model, r, how, PARTICLES, threshold=threshold)
        )
    return _PROGRAMS[id(model), how]


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
    r = Normal(tiled(y), tiled(variance))
    result = run(model, r, how)
    check_form(result, (2,))
    law = normal_law(model, 2)
    for i in range(3):
        seen = np.isfinite(variance[i])
        exact, log_z = conditioned(law, np.eye(2)[seen], y[i, seen], variance[i, seen])
        check_normal(groups_of(result, i, 3), exact, log_z)
    known = np.asarray(result.x[::3, :, 0])
    np.testing.assert_allclose(known, 0.9, atol=1e-3 if model is full_model else 1e-6)
    # Resampled particles have a smaller effective size; some were resampled.
    assert how == "denoised" or result.effective_size.min() < 0.5 * PARTICLES


def test_guides_that_are_exact_leave_nothing_to_weigh():
    """Full covariances of normal data: all particles weigh the same, but for the edge."""
    r = Normal(tiled([[0.9, NAN]]), tiled([[0.2, INF]]))
    result = run(full_model, r, "denoised")
    assert float(result.effective_size.mean()) > 0.9 * PARTICLES
    exact, log_z = conditioned(normal_law(full_model, 2), np.eye(2)[:1], np.array([0.9]), np.array([0.2]))
    check_normal(result, exact, log_z)


def test_never_resampled():
    r = Normal(tiled([[0.4, -0.1]]), tiled([[0.8, 0.9]]))
    result = run(diagonal_model, r, "denoised", threshold=0.0)
    check_form(result, (2,))
    exact, log_z = conditioned(normal_law(diagonal_model, 2), np.eye(2), np.array([0.4, -0.1]), np.array([0.8, 0.9]))
    check_normal(result, exact, log_z)


def test_a_half_plane():
    """log r = log sigmoid, against sums over a grid."""
    result = run(diagonal_model, lambda x: jax.nn.log_sigmoid(4 * (x[:, 1] - x[:, 0])), "guided", shape=(2,), points=64)
    check_form(result, (2,))
    mean, covariance = normal_law(diagonal_model, 2)
    axis = np.linspace(-6, 6, 401)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) + mean
    density = np.exp(-0.5 * np.einsum("ni,ij,nj->n", x - mean, np.linalg.inv(covariance), x - mean))
    joint = density / density.sum() * expit(4 * (x[:, 1] - x[:, 0]))
    check_unbiased(result, moments(result.x), np.log(joint.sum()), joint @ moments(x) / joint.sum())


def test_a_single_step():
    process = Gaussian(schedules.geometric(1, beta_1=0.3))
    model = predictions.gaussian(process, lambda x, t: jnp.full((len(x), 2), 0.3))
    r = Normal(tiled([[0.8]]), tiled([[0.4]]))
    result = run(model, r, "denoised")
    check_form(result, (1,), num_timesteps=1)
    exact, log_z = conditioned(normal_law(model, 1), np.eye(1), np.array([0.8]), np.array([0.4]))
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


def test_tail_is_hills_estimate():
    """The mean log of the largest weights over the next one; of a Pareto law of index 0.7 it is 0.7."""
    log_weights = 0.7 * np.random.default_rng(0).exponential(size=(40, 1000))
    found = np.asarray(jax.jit(smc._tail)(jnp.asarray(log_weights, jnp.float32)), np.float64)
    # 3 sqrt(1000) of them, which are fewer than a fifth.
    falling = -np.sort(-log_weights)[:, :96]
    np.testing.assert_allclose(found, (falling[:, :95] - falling[:, 95:]).mean(1), rtol=1e-5)
    assert abs(found.mean() - 0.7) < 4 * 0.7 / np.sqrt(40 * 95)
    # The largest fifth of ten particles; where the others have no weight, the smallest of those left is the next one.
    few = jnp.array([[5.0, 4, 2, 1, 0, 0, 0, 0, 0, 0], [3.0, -INF, 1] + 7 * [-INF]])
    np.testing.assert_allclose(smc._tail(few), [2.5, 2.0], rtol=1e-6)


def repeats(how, noise, threshold, kind="law"):
    """Return runs of 200 particles each, and the exact log Z."""
    y = np.array([0.4, -0.1])
    sample, law = repeater(how, kind)
    return sample(jnp.float32(noise), jnp.float32(threshold)), conditioned(law, np.eye(2), y, np.full(2, noise))[1]


@functools.cache
def repeater(how, kind):
    """The program of a way, and the law of x_0 of its model."""
    schedule = schedules.geometric(20, beta_1=1e-3)
    model = normal_chain(schedule, np.array([0.3, -0.2]), np.array([[1.2, 0.6], [0.6, 0.7]]))[1]
    settings = {"points": 32} if how == "guided" else {}

    @jax.jit
    def sample(noise, threshold):
        r = Normal(jnp.array([[0.4, -0.1]]), noise)
        given, shape = (r, None) if kind == "law" else (lambda x: guidance.log_likelihood(r, x), (2,))
        options = {"shape": shape, "num_posteriors": 300, "threshold": threshold}
        return smc.sample(KEY, model, given, how, 200, **options, **settings)

    return sample, normal_law(model, 2)


# --- Bits ---

BITS = Binomial(schedules.erase(20, beta_1=0.02))
POINTS = np.array([3, 12, 21, 30])
best_bits = optimal.finite_bits(
    BITS, jnp.asarray(STRINGS[POINTS], jnp.float32), jnp.log(jnp.array([0.4, 0.1, 0.3, 0.2], jnp.float32))
)


@pytest.mark.parametrize("how", ["denoised", "guided"])
def test_strings_of_bits_by_enumeration(how):
    """Compare with the model's own posterior, from the matrices of all its steps, for two kinds of evidence."""
    logits = np.array([[1.0, 0.0, -2.0, 0.5, 0.0], [0.0, INF, 0.0, 0.0, -1.0]])
    result = run(best_bits, Bernoulli(tiled(logits)), how)
    check_form(result, (5,), num_timesteps=20)
    model = bits_law(best_bits)
    assert 0.5 < model[POINTS].sum() < 0.999
    for i in range(2):
        # Probabilities of what was observed; 1 where nothing was.
        joint = model * string_law(logits[i]) * 2.0 ** (logits[i] == 0).sum()
        check_strings(groups_of(result, i, 2), joint)


def test_strings_of_bits_given_a_function():
    """An odd number of ones: no evidence about each bit by itself."""
    log_r = lambda x: 0.7 * jnp.cos(jnp.pi * (x.sum(-1) - 1))  # noqa: E731
    result = run(best_bits, log_r, "annealed", shape=(5,))
    joint = bits_law(best_bits) * np.exp(0.7 * np.cos(np.pi * (STRINGS.sum(1) - 1)))
    check_strings(result, joint)


# --- Resampling ---


def test_one_particle_with_all_the_weight_is_all_that_is_drawn():
    log_weights = jnp.where(jnp.arange(6) == 4, 0.0, -INF)[None] + 300.0
    np.testing.assert_array_equal(smc._resample(KEY, log_weights, 9), 4)
    np.testing.assert_allclose(smc._effective_size(log_weights), 1, rtol=1e-5)
    np.testing.assert_allclose(smc._effective_size(jnp.full((1, 7), -500.0)), 7, rtol=1e-4)


def test_draws_are_in_proportion_and_in_random_order():
    weights = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    x = jnp.arange(6.0).reshape(2, 3, 1)
    log_weights, told = jnp.log(jnp.asarray(weights, jnp.float32)), jnp.zeros((2, 2))
    result = smc.Particles(x, log_weights, jnp.zeros(2), jnp.zeros(2), told, told, told)
    n = 4000
    drawn = jax.jit(jax.vmap(lambda key: smc.draw(key, result, 10)))(jax.random.split(KEY, n))
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
    traces = []

    def sample(key, y):
        traces.append(1)
        r = Normal(y, jnp.array([[0.3, INF]]))
        return smc.sample(key, standard_model(schedules.geometric(4)), r, "denoised", 16)

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
    model = forward_edge(optimal.normal(Gaussian(schedule), jnp.zeros(3), jnp.asarray(covariance, jnp.float32)))
    r = guidance.Linear(lambda x: x @ jnp.asarray(operator.T, jnp.float32), jnp.asarray(y[None], jnp.float32), noise)
    found = jax.jit(lambda key: smc.sample(key, model, r, "matched", 1000, shape=(3,)))(jax.random.key(0))
    total = operator @ covariance @ operator.T + noise * np.eye(2)
    log_z = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    assert float(found.effective_size.min()) > 100
    assert abs(float(found.log_evidence[0]) - log_z) < 0.4


def test_particles_that_are_all_lost_say_so():
    model = standard_model(schedules.geometric(5, beta_1=1e-2))

    @jax.jit
    def sample(bad):
        return smc.sample(KEY, model, lambda x: 0.0 * x.sum(-1) + bad, "constant", 8, shape=(2,), num_posteriors=2)

    for bad in (jnp.nan, -jnp.inf):
        found = sample(bad)
        assert (np.asarray(found.log_evidence) == -np.inf).all()
        assert (np.asarray(found.effective_size)[0] == 0).all()
        assert (np.asarray(found.log_weights) == -np.inf).all()
        assert np.isnan(found.stderr).all()


def test_one_lost_particle_does_not_spoil_the_others_and_is_counted(monkeypatch):
    """A difference of numbers above 1e7 says nothing, of whatever sign they are."""
    model = standard_model(schedules.geometric(20, beta_1=1e-2))
    r, make = Normal(jnp.array([[0.3, 0.0]]), jnp.array([[0.5, jnp.inf]])), guidance.guide

    @jax.jit
    def sample(twist):
        def broken(*arguments, **settings):
            guide = make(*arguments, **settings)

            def step_of(x_t, t):
                step = guide(x_t, t)
                lost = jnp.where(t[0] == 10, twist, step.log_twist[3])
                return step._replace(log_twist=step.log_twist.at[3].set(lost))

            return step_of

        monkeypatch.setattr(guidance, "guide", broken)
        return smc.sample(jax.random.key(0), model, r, "denoised", 500)

    exact = -0.5 * (0.3**2 / 1.5 + np.log(2 * np.pi * 1.5))
    for twist in (np.nan, INF, -2e7, 2e7):
        found = sample(twist)
        assert abs(float(found.log_evidence[0]) - exact) < 0.02
        np.testing.assert_array_equal(found.lost[:, 0], np.arange(21) == 10)


def test_weights_of_0_are_not_lost(monkeypatch):
    """r = 0 beyond a line: in the mean, Z is how much of the model is on this side of it."""
    model = standard_model(schedules.geometric(6, beta_1=1e-2))
    log_r, make = lambda x: jnp.where(x[:, 0] > 0.5, 0.0, -jnp.inf), guidance.guide
    # Guided by nothing: where r is 0 the way "constant" would have no guess of E r but 0.
    monkeypatch.setattr(guidance, "guide", lambda model, r, how: make(model, lambda x: 0.0 * x[:, 0], how))
    found = jax.jit(lambda: smc.sample(KEY, model, log_r, "constant", 500, shape=(2,), num_posteriors=20))()
    ratio = np.exp(np.asarray(found.log_evidence, float)) / scipy.stats.norm.sf(0.5)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(20)
    assert (np.asarray(found.lost) == 0).all()


# --- Evidence is given once ---


Y = np.array([[0.9, -0.2], [0.5, -0.7], [-0.4, -0.9]])


def test_posteriors_together_are_posteriors_alone():
    """In law: the mean and the scatter of Z, and the mean of x, of 80 runs of each."""

    keys, sample = jax.random.split(KEY, 4), of_laws(diagonal_model, "denoised")
    together = sample(keys[0], Normal(tiled(Y), 0.4))
    for i, y in enumerate(Y):
        # GROUPS of the same evidence, of which 80 are as good as any: the program is the same.
        alone, among = sample(keys[1 + i], Normal(tiled(y[None]), 0.4)), groups_of(together, i, 3)
        z, weighed = [], []
        for found in (alone, among):
            ratio = np.exp(np.asarray(found.log_evidence, float) - np.asarray(alone.log_evidence, float).mean())
            mean = (np.exp(np.asarray(found.log_weights, float))[..., None] * np.asarray(found.x)).sum(1)
            z.append(ratio)
            weighed.append(np.concatenate([ratio[:, None], ratio[:, None] * mean], axis=1))
        stderr = np.sqrt(sum(values.var(0) / len(values) for values in weighed))
        assert (np.abs(weighed[0].mean(0) - weighed[1].mean(0)) < 4.5 * stderr).all()
        assert 0.6 < z[1].std() / z[0].std() < 1.6
        # Each has its noise: no two of the posteriors find the same Z.
        assert len(np.unique(np.asarray(among.log_evidence))) == 80


def test_a_function_may_know_its_posterior():
    """Evidence of three posteriors as a function of x [B, ...], given once, and as the law that it stands for."""
    y, law = tiled(Y), normal_law(diagonal_model, 2)
    seen = Normal(y, 2.0)
    result = run(diagonal_model, lambda x: guidance.log_likelihood(seen, x), "guided", shape=(2,), points=32)
    check_form(result, (2,))
    for i in range(3):
        check_normal(groups_of(result, i, 3), *conditioned(law, np.eye(2), Y[i], np.full(2, 2.0)))


def test_linear_evidence_of_several_posteriors():
    """y and its noise are those of each posterior; A is one for all, or knows whose x it is given."""
    operators = np.array([[0.5, -1.0], [1.0, 0.3], [0.2, 0.8]])
    matrix, y, noise = tiled(operators), tiled(Y[:, :1]), np.array([[0.4], [0.2], [0.6]])
    r = guidance.Linear(lambda x: (x * matrix).sum(-1, keepdims=True), y, tiled(noise))
    result = run(diagonal_model, r, "matched", shape=(2,))
    for i in range(3):
        exact = conditioned(normal_law(diagonal_model, 2), operators[i][None], Y[i, :1], noise[i])
        check_normal(groups_of(result, i, 3), *exact)


def test_a_size_that_is_not_that_of_the_evidence_is_refused():
    three = Normal(jnp.zeros((3, 2)), 1.0)
    linear = guidance.Linear(lambda x: x[:, :1], jnp.zeros((3, 1)), 0.1)
    sample = lambda r, how, **sizes: smc.sample(KEY, diagonal_model, r, how, 4, **sizes)  # noqa: E731
    for r, how, shape in ((three, "denoised", None), (linear, "matched", (2,))):
        with pytest.raises(ValueError, match="num_posteriors: the evidence is about 3, got 4"):
            sample(r, how, shape=shape, num_posteriors=4)
    with pytest.raises(ValueError, match=r"shape: the evidence is about examples of shape \(2,\), got \(3,\)"):
        sample(three, "denoised", shape=(3,))
    for r, how in ((linear, "matched"), (lambda x: x[:, 0], "guided")):
        with pytest.raises(ValueError, match="shape: of an example, must be given"):
            sample(r, how)
    with pytest.raises(ValueError, match="how: 'renoised' replaces the model's steps, and has no weights"):
        sample(three, "renoised")
    for r, sizes, num in ((three, {}, 3), (Normal(jnp.zeros((1, 2)), 1.0), {"num_posteriors": 5}, 5)):
        found = jax.eval_shape(lambda r=r, sizes=sizes: sample(r, "denoised", **sizes))
        assert found.x.shape == (num, 4, 2)
