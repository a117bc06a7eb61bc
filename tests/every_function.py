"""Every public function of the library that computes, with a small model of each kind: for tests of traced programs."""

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import (
    binomial,
    bound,
    cold,
    conditional,
    ddim,
    degradations,
    entropy,
    gaussian,
    level,
    likelihood,
    objectives,
    optimal,
    particles,
    posterior,
    predictions,
    respacing,
    sampling,
    schedules,
    timesteps,
)
from dpm_jax.bernoulli import Bernoulli
from dpm_jax.normal import Normal

T, BATCH, DIM = 4, 4, 2
SHAPE = (BATCH, DIM)


def scaled(x):
    """A network."""
    return 0.3 * x


def gaussian_model(covariance="diagonal", prediction="epsilon"):
    schedule = schedules.geometric(T, beta_1=1e-2)

    def reverse(x, t):
        if covariance == "full":
            outputs = jnp.concatenate([scaled(x), x, x[:, :1]], axis=-1)
            return predictions.full_normal_reverse(schedule, x, t, outputs, prediction=prediction)
        return predictions.normal_reverse(schedule, x, t, jnp.concatenate([scaled(x), x], axis=-1))

    return gaussian, schedule, reverse


def binomial_model():
    schedule = schedules.erase(T, beta_1=1e-2)
    return binomial, schedule, lambda x, t: binomial.denoised_reverse(schedule, x, t, scaled(x))


MODELS = {
    "gaussian": gaussian_model,
    "full": lambda: gaussian_model("full"),
    "binomial": binomial_model,
}


def evidence(kernel, x_0, num=1):
    seen = jnp.broadcast_to(jnp.arange(DIM) < 1, x_0.shape)
    # Repeated in a way that keeps a batch where it is spread.
    return jax.tree.map(
        lambda a: jnp.broadcast_to(a[:, None], (len(a), num, *a.shape[1:])).reshape(-1, *a.shape[1:]),
        kernel.known(x_0, seen),
    )


def noisy(kernel, x_0):
    return Normal(x_0, jnp.full_like(x_0, 0.1)) if kernel is gaussian else Bernoulli(3 * (2 * x_0 - 1))


def run_particles(key, x_0, model, how):
    kernel, schedule, reverse = model
    sample_key, draw_key = jax.random.split(key)
    r = evidence(kernel, x_0, 3)
    guide = posterior.guide(kernel, schedule, reverse, r, how)
    found = particles.sample(sample_key, kernel, guide, r, len(x_0), 3, x_0.shape[1:], T)
    return found, particles.draw(draw_key, found, 2)


def run_respaced(key, x_0, model):
    kernel, schedule, reverse = model
    short = respacing.respaced(kernel, schedule, reverse, respacing.uniform(T, 2), edge="decoder")
    return bound.evaluate(key, kernel, *short, x_0, edge="decoder")


def run_condition(key, x_0, model, how):
    kernel, schedule, reverse = model
    conditioned = posterior.condition(kernel, schedule, reverse, noisy(kernel, x_0), how)
    return sampling.ancestral(key, kernel, conditioned, len(x_0), x_0.shape[1:], T)


def run_slope(key, x_0, model):
    kernel, schedule, reverse = model

    def loss(coefficients):
        learned = schedules.learned(schedule, coefficients)
        return bound.estimate(key, kernel, learned, reverse, x_0, edge="decoder").mean

    return jax.value_and_grad(loss)(jnp.zeros(3))


def run_cold(key, x_0):
    images = jnp.broadcast_to(x_0[:, :1, None, None], (len(x_0), 4, 4, 1))
    degrade = degradations.mask(T)
    loss_key, degrade_key, sample_key = jax.random.split(key, 3)
    reverse = cold.reverse(degrade, lambda x, t: scaled(x), key=degrade_key)
    start = level.standard(1)
    x = sampling.ancestral(sample_key, gaussian, reverse, len(x_0), (4, 4, 1), T, start=start)
    return (
        cold.restoration_loss(loss_key, degrade, lambda x, t: scaled(x), images, T),
        cold.start_loss(start, images),
        x,
    )


def run_times(key, x_0):
    table = timesteps.record(timesteps.table(T), jnp.arange(2, T + 1), jnp.ones(T - 1))
    samplers = [timesteps.importance(timesteps.probabilities(table)), timesteps.emphasis(jnp.ones(T + 1))]
    samplers += [timesteps.uniform, timesteps.antithetic]
    return [
        bound.estimate(k, *gaussian_model(), x_0, time_sampler=sampler, num_times=2)
        for k, sampler in zip(jax.random.split(key, len(samplers)), samplers, strict=True)
    ]


def run_optimal(key, x_0):
    schedule = schedules.cosine(T)
    normal = optimal.normal(schedule, jnp.zeros(DIM), jnp.asarray([[1.0, 0.3], [0.3, 1.0]]))
    points = optimal.finite_points(schedule, jnp.eye(DIM), jnp.log(jnp.full(DIM, 0.5)))
    return [
        bound.evaluate(k, gaussian, schedule, r, x_0)
        for k, r in zip(jax.random.split(key), (normal, points), strict=True)
    ]


# Of a model each: (key, x_0, (kernel, schedule, reverse)).
OF_A_MODEL = {
    "bound.evaluate": lambda key, x_0, model: bound.evaluate(key, *model, x_0),
    "bound.evaluate decoder": lambda key, x_0, model: bound.evaluate(key, *model, x_0, edge="decoder"),
    "bound.estimate": lambda key, x_0, model: bound.estimate(key, *model, x_0, num_times=2),
    "objectives.sample_mse": lambda key, x_0, model: objectives.sample_mse(key, *model, x_0),
    "likelihood.log_weights": lambda key, x_0, model: likelihood.log_weights(key, *model, x_0, 2, chunk_size=4),
    "likelihood.sandwich": lambda key, x_0, model: likelihood.sandwich(key, *model, len(x_0), x_0.shape[1:], 2),
    "entropy.step_bounds": lambda key, x_0, model: entropy.step_bounds(*model[:2], x_0.shape[1:]),
    "entropy.model_steps": lambda key, x_0, model: entropy.model_steps(key, *model, x_0),
    "respacing.costs": lambda key, x_0, model: respacing.costs(key, *model, x_0),
    "respacing.respaced": run_respaced,
    "sampling.ancestral": lambda key, x_0, model: sampling.ancestral(
        key, model[0], model[2], len(x_0), x_0.shape[1:], T, chunk_size=2
    ),
    "sampling.ancestral_trajectory": lambda key, x_0, model: sampling.ancestral_trajectory(
        key, model[0], model[2], len(x_0), x_0.shape[1:], T, keep_every=3
    ),
    "sampling.with_jumps": lambda key, x_0, model: sampling.with_jumps(
        key, *model, len(x_0), x_0.shape[1:], jump_length=2, num_repeats=2
    ),
    "posterior.condition denoised": lambda key, x_0, model: run_condition(key, x_0, model, "denoised"),
    "posterior.condition guided": lambda key, x_0, model: run_condition(key, x_0, model, "guided"),
    "posterior.condition renoised": lambda key, x_0, model: run_condition(key, x_0, model, "renoised"),
    "particles": lambda key, x_0, model: run_particles(key, x_0, model, "denoised"),
    "conditional.log_conditional": lambda key, x_0, model: conditional.log_conditional(
        key, *model, x_0, jnp.arange(DIM) < 1, num_trajectories=2, num_particles=2
    ),
}
CALLS = {f"{name}, {of}": (call, of) for name, call in OF_A_MODEL.items() for of in MODELS} | {
    "objectives.simple": (lambda key, x_0, model: objectives.simple(key, *model[1:], x_0), "gaussian"),
    "objectives.hybrid": (lambda key, x_0, model: objectives.hybrid(key, *model[1:], x_0), "gaussian"),
    "posterior.condition matched": (lambda key, x_0, m: run_condition(key, x_0, m, "matched"), "gaussian"),
    "posterior.condition annealed": (lambda key, x_0, m: run_condition(key, x_0, m, "annealed"), "gaussian"),
    "ddim": (
        lambda key, x_0, m: sampling.ancestral(key, gaussian, ddim.ddim(m[1], m[2], 0.5), len(x_0), x_0.shape[1:], T),
        "gaussian",
    ),
    "schedules.learned": (run_slope, "gaussian"),
    "likelihood.enumerate_bits": (lambda key, x_0, m: likelihood.enumerate_bits(m[2], DIM, T), "binomial"),
    "cold": (lambda key, x_0, m: run_cold(key, x_0), "gaussian"),
    "timesteps": (lambda key, x_0, m: run_times(key, x_0), "gaussian"),
    "optimal": (lambda key, x_0, m: run_optimal(key, x_0), "gaussian"),
}


def example(of):
    x_0 = np.linspace(-1.5, 1.5, BATCH * DIM, dtype=np.float32).reshape(SHAPE)
    return jnp.asarray(x_0 > 0, jnp.float32) if of == "binomial" else jnp.asarray(x_0)


def called(name):
    """The call as a function of a key and x_0; models are made within, under the mode."""
    call, of = CALLS[name]
    return (lambda key, x_0: call(key, x_0, MODELS[of]())), example(of)
