"""Every public function of the library that computes, with a small model of each kind: for tests of traced programs."""

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import (
    Bernoulli,
    Binomial,
    Gaussian,
    Normal,
    bound,
    cold,
    ddim,
    degradations,
    entropy,
    grey_levels,
    guidance,
    likelihood,
    objectives,
    optimal,
    predictions,
    respacing,
    sampling,
    schedules,
    smc,
    timesteps,
    truncated_normal,
)
from dpm_jax.distributions import Grid, level

T, BATCH, DIM = 5, 4, 2
GRID = Grid(-2.0, 0.5, 9)
SHAPE = (BATCH, DIM)


# The primitive that the network alone has: each time it is executed is a call of the network.
NETWORK = "sin"


def network(x):
    return 0.3 * jnp.sin(x)


def gaussian_model(schedule=None):
    process = Gaussian(schedules.geometric(T, beta_1=1e-2) if schedule is None else schedule)
    return predictions.gaussian(process, lambda x, t: jnp.concatenate([network(x), x], axis=-1))


def full_model():
    process = Gaussian(schedules.geometric(T, beta_1=1e-2))
    return predictions.full_gaussian(
        process, lambda x, t: jnp.concatenate([network(x), x, x[:, :1]], axis=-1), prediction="epsilon"
    )


def binomial_model():
    return predictions.binomial(Binomial(schedules.erase(T, beta_1=1e-2)), lambda x, t: network(x))


MODELS = {"gaussian": gaussian_model, "full": full_model, "binomial": binomial_model}


def known(model, x_0):
    law = type(model.process.prior(SHAPE))
    return law.known(x_0, jnp.broadcast_to(jnp.arange(DIM) < 1, x_0.shape))


def noisy(model, x_0):
    is_bits = isinstance(model.process, Binomial)
    return Bernoulli(3 * (2 * x_0 - 1)) if is_bits else Normal(x_0, jnp.full(x_0.shape, 0.1))


def first(x):
    return x[:, 0]


def linear(x_0):
    return guidance.Linear(lambda x: x[:, :1] + x[:, 1:], x_0[:, :1], 0.1)


def run_smc(key, x_0, model, how, kind="law"):
    sample_key, draw_key = jax.random.split(key)
    r = {"law": noisy(model, x_0) if how == "constant" else known(model, x_0), "function": first, "linear": linear(x_0)}
    shape = {"shape": x_0.shape[1:], "num_posteriors": len(x_0)} if kind != "law" else {}
    settings = {"points": 8} if how == "guided" else {}
    found = smc.sample(sample_key, model, r[kind], how, 3, **shape, **settings)
    return found, smc.draw(draw_key, found, 2)


def run_respaced(key, x_0, model):
    short = respacing.respace(model, respacing.uniform(T, 2), edge="decoder")
    return bound.evaluate(key, short, x_0, edge="decoder")


def run_condition(key, x_0, model, how):
    return sampling.sample(key, guidance.condition(model, noisy(model, x_0), how), len(x_0), x_0.shape[1:])


def run_slope(key, x_0, model):
    def loss(coefficients):
        learned = schedules.learned(model.process.schedule, coefficients)
        return bound.estimate(key, gaussian_model(learned), x_0, edge="decoder").mean

    return jax.value_and_grad(loss)(jnp.zeros(3))


def run_restoration(key, x_0, model):
    images = jnp.broadcast_to(x_0[:, :1, None, None], (len(x_0), 4, 4, 1))
    loss = cold.restoration_loss(key, degradations.mask(T), lambda x, t: network(x), images, T)
    return loss, cold.start_loss(level.Level((4, 4, 1), **level.standard(1)), images)


def run_cold(key, x_0, model):
    degrade_key, sample_key = jax.random.split(key)
    start = level.Level((4, 4, 1), **level.standard(1))
    chain = cold.model(degradations.mask(T), lambda x, t: network(x), T, start, key=degrade_key)
    return sampling.sample(sample_key, chain, len(x_0), (4, 4, 1))


def run_gradient(key, x_0, model):
    return jax.grad(lambda x_0: bound.evaluate(key, model, x_0).k.sum())(x_0)


def run_times(key, x_0, model):
    table = timesteps.record(timesteps.table(T), jnp.arange(2, T + 1), jnp.ones(T - 1))
    samplers = [timesteps.importance(timesteps.probabilities(table)), timesteps.emphasis(jnp.ones(T + 1))]
    samplers += [timesteps.uniform, timesteps.antithetic]
    return [
        bound.estimate(k, model, x_0, time_sampler=sampler, num_times=2)
        for k, sampler in zip(jax.random.split(key, len(samplers)), samplers, strict=True)
    ]


def run_optimal(key, x_0, model):
    process = Gaussian(schedules.cosine(T))
    normal = optimal.normal(process, jnp.zeros(DIM), jnp.asarray([[1.0, 0.3], [0.3, 1.0]]))
    points = optimal.finite_points(process, jnp.eye(DIM), jnp.log(jnp.full(DIM, 0.5)))
    return [bound.evaluate(k, m, x_0) for k, m in zip(jax.random.split(key), (normal, points), strict=True)]


def run_ddim(key, x_0, model):
    return sampling.sample(key, ddim(model, 0.5), len(x_0), x_0.shape[1:])


def run_conditional(key, x_0, model):
    observed = jnp.arange(DIM) < 1
    law = type(model.process.prior((1, 1)))
    found = smc.sample(key, model, law.known(x_0, observed), "denoised", 2)
    return likelihood.conditional(likelihood.log_weights(key, model, x_0, 2), found.log_evidence, found.stderr)


def run_levels(key, x_0, model):
    num = len(grey_levels.features(GRID.num))
    model = grey_levels.gaussian(model.process, lambda x, t: jnp.repeat(network(x), num, axis=-1), GRID)
    return bound.estimate(key, model, GRID.nearest(x_0), edge=GRID.log_prob)


# Its schedule is looked at, and must be known before tracing.
PROCESS = Gaussian(schedules.geometric(T, beta_1=1e-2))


def run_truncated(key, x_0, model):
    model = predictions.gaussian(PROCESS, lambda x, t: jnp.concatenate([network(x), x], axis=-1))
    return truncated_normal.evaluate(key, model, GRID.nearest(x_0), GRID)


# (key, x_0, model): of every kind of model, and then of some.
OF_EVERY_MODEL = {
    "bound.evaluate": lambda key, x_0, model: bound.evaluate(key, model, x_0),
    "bound.estimate": lambda key, x_0, model: bound.estimate(key, model, x_0),
    "bound.estimate decoder": lambda key, x_0, model: bound.estimate(key, model, x_0, edge="decoder", num_times=2),
    "likelihood.log_weights": lambda key, x_0, model: likelihood.log_weights(key, model, x_0, 2, chunk_size=4),
    "entropy.model_steps": lambda key, x_0, model: entropy.model_steps(key, model, x_0),
    "respacing.costs": lambda key, x_0, model: respacing.costs(key, model, x_0),
    "respacing.respace": run_respaced,
    "guidance.condition guided": lambda key, x_0, model: run_condition(key, x_0, model, "guided"),
    "guidance.condition renoised": lambda key, x_0, model: run_condition(key, x_0, model, "renoised"),
    "smc denoised": lambda key, x_0, model: run_smc(key, x_0, model, "denoised"),
}
OF_SOME = {
    "gaussian": {
        "bound.evaluate decoder": lambda key, x_0, model: bound.evaluate(key, model, x_0, edge="decoder"),
        "bound.evaluate gradient": run_gradient,
        "bound.evaluate few times": lambda key, x_0, model: bound.evaluate(key, model, x_0, num_times=2),
        "bound.evaluate grid": lambda key, x_0, model: bound.evaluate(
            key, model, GRID.nearest(x_0), edge=GRID.log_prob
        ),
        "grey_levels": run_levels,
        "truncated_normal": run_truncated,
        "bound.limit": lambda key, x_0, model: bound.limit(key, model, x_0, edge="decoder", num_times=2),
        "objectives.sample_mse": lambda key, x_0, model: objectives.sample_mse(key, model, x_0),
        "objectives.simple": lambda key, x_0, model: objectives.simple(key, model, x_0),
        "objectives.hybrid": lambda key, x_0, model: objectives.hybrid(key, model, x_0),
        "likelihood.sandwich": lambda key, x_0, model: likelihood.sandwich(key, model, len(x_0), x_0.shape[1:], 2),
        "sampling.sample": lambda key, x_0, model: sampling.sample(key, model, len(x_0), x_0.shape[1:], chunk_size=2),
        "sampling.trajectory": lambda key, x_0, model: sampling.trajectory(
            key, model, len(x_0), x_0.shape[1:], keep_every=3
        ),
        "sampling.with_jumps": lambda key, x_0, model: sampling.with_jumps(
            key, model, len(x_0), x_0.shape[1:], jump_length=2, num_repeats=2
        ),
        "smc constant": lambda key, x_0, model: run_smc(key, x_0, model, "constant"),
        "smc annealed": lambda key, x_0, model: run_smc(key, x_0, model, "annealed", "function"),
        "smc guided": lambda key, x_0, model: run_smc(key, x_0, model, "guided", "function"),
        "smc matched": lambda key, x_0, model: run_smc(key, x_0, model, "matched", "linear"),
        "likelihood.conditional": run_conditional,
        "ddim": run_ddim,
        "schedules.learned": run_slope,
        "cold.restoration_loss": run_restoration,
        "cold.model": run_cold,
        "timesteps": run_times,
        "optimal": run_optimal,
    },
    "full": {"smc matched": lambda key, x_0, model: run_smc(key, x_0, model, "matched")},
    "binomial": {
        "objectives.sample_mse": lambda key, x_0, model: objectives.sample_mse(key, model, x_0),
        "sampling.with_jumps": lambda key, x_0, model: sampling.with_jumps(
            key, model, len(x_0), x_0.shape[1:], jump_length=2, num_repeats=2
        ),
        "smc annealed": lambda key, x_0, model: run_smc(key, x_0, model, "annealed"),
        "likelihood.enumerate_bits": lambda key, x_0, model: likelihood.enumerate_bits(model, DIM),
    },
}
# How often the network is called, by how many examples are in a call; B of them are data, N = 3 are particles of each,
# k = 2 are trajectories of each.
B, N, K = BATCH, 3, 2
NETWORK_CALLS = {
    # A KL term for each t in 2..T, and p(x_0 | x_1) where it is the network's.
    "bound.evaluate": {B: T - 1},
    "bound.evaluate decoder": {B: T},
    "bound.evaluate few times": {B: 2},
    "grey_levels": {B * 2: 1},
    "truncated_normal": {B: T - 1},
    "bound.evaluate grid": {B: T},
    # Each step is computed again on the way back.
    "bound.evaluate gradient": {B: 2 * (T - 1)},
    # Losses: one call, which has the edge and both times.
    "bound.estimate": {B: 1},
    "bound.estimate decoder": {B * 2 * 2: 1},
    "bound.limit": {B * 2 * 2: 1},
    "objectives.sample_mse": {B: 1},
    "objectives.simple": {B: 1},
    "objectives.hybrid": {B: 1},
    "cold.restoration_loss": {B: 1},
    "schedules.learned": {B * 2: 1},
    # Four samplers of times, one estimate each, of two times.
    "timesteps": {B * 2: 4},
    # Trajectories: T calls each, in chunks of 4.
    "likelihood.log_weights": {4: T * (B * K // 4)},
    "likelihood.sandwich": {B: T, B * K: T},
    # Two particles, and two trajectories, of each example.
    "likelihood.conditional": {B * 2: 2 * T},
    "likelihood.enumerate_bits": {2**DIM: T},
    "entropy.model_steps": {B: T},
    "respacing.costs": {B: T},
    # A chain of two steps.
    "respacing.respace": {B: 2},
    # Sampling, one call a step; in chunks of two examples; each stretch twice.
    "sampling.sample": {2: T * (B // 2)},
    "sampling.trajectory": {B: T},
    "sampling.with_jumps": {B: 2 * T},
    "cold.model": {B: T},
    "ddim": {B: T},
    "guidance.condition guided": {B: T},
    "guidance.condition renoised": {B: T},
    "smc constant": {B * N: T},
    "smc annealed": {B * N: T},
    "smc denoised": {B * N: T},
    "smc guided": {B * N: T},
    "smc matched": {B * N: T},
    # Models without a network.
    "optimal": {},
}

CALLS = {f"{name}, {of}": (call, of) for of in MODELS for name, call in (OF_EVERY_MODEL | OF_SOME[of]).items()}


def example(of):
    x_0 = np.linspace(-1.5, 1.5, BATCH * DIM, dtype=np.float32).reshape(SHAPE)
    return np.asarray(x_0 > 0, np.float32) if of == "binomial" else x_0


def called(name):
    """The call as a function of a key and x_0, and x_0 on the host; models are made within, under the mode."""
    call, of = CALLS[name]
    return (lambda key, x_0: call(key, x_0, MODELS[of]())), example(of)
