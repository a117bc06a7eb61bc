"""Parts of one's own, as a user writes them, named in a config by their paths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpm_jax import schedules
from dpm_jax.numerics.shapes import at


class Net(nn.Module):
    num_outputs: int
    width: int = 8

    @nn.compact
    def __call__(self, x, t):
        h = nn.tanh(nn.Dense(self.width)(jnp.concatenate([x, t[:, None] / 100], axis=-1)))
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros)(h)


class WrongNet(Net):
    num_outputs: int = 7

    @nn.compact
    def __call__(self, x, t):
        return nn.Dense(7)(x)


def not_a_net(num_outputs):
    return num_outputs


def halves(num_timesteps, *, final=1e-3):
    """Return the schedule whose alpha_bar falls by one factor a step."""
    return schedules.from_alpha_bar(final ** (np.arange(1, num_timesteps + 1) / num_timesteps))


def moons(num=200, seed=0):
    angle = np.random.default_rng(seed).uniform(0, np.pi, num)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def bits(num=64):
    return np.random.default_rng(0).integers(0, 2, (num, 4))


class Squares:
    """A sequence of images, which are made when they are looked at."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = np.zeros((8, 8, 1), np.uint8)
        image[index % 8 :, index % 5 :] = 200 + index % 50
        return image


def squares():
    return Squares()


def endless(scale=1.0):
    """Yield points without end, the same each time."""
    rng = np.random.default_rng(3)
    while True:
        yield scale * rng.normal(size=2)


def words():
    return iter(["a", "b"])


def nothing():
    return None


def lion(learning_rate, b1=0.9):
    return optax.lion(learning_rate, b1=b1)


def halving(init_value, every=10):
    return lambda step: init_value * 0.5 ** (step // every)


def weighted(key, model, x_0, *, power=1.0):
    """Return the squared error of the mean of x_0, weighted by a power of alpha_bar."""
    time_key, noise_key = jax.random.split(key)
    t = jax.random.randint(time_key, (len(x_0),), 1, model.num_timesteps + 1)
    x_t = model.process.marginal(x_0, t).sample(noise_key)
    weight = at(model.process.schedule.alpha_bar, t, x_0) ** power
    return jnp.mean(weight * (model.denoised(x_t, t).mean - x_0) ** 2)


def signal(key, model, x_0, *, power=1.0):
    """Return the mean of a power of alpha_bar: no noise enters."""
    return jnp.mean(model.process.schedule.alpha_bar**power)


def even(key, num, num_timesteps):
    from dpm_jax import timesteps

    return timesteps.low_discrepancy(key, num, num_timesteps)


def breaks():
    raise ValueError("num: is wrong")


def grain_images():
    import grain

    return grain.MapDataset.source(Squares())


def grain_points():
    import grain

    points = np.random.default_rng(3).normal(size=(5000, 2))
    return grain.MapDataset.source(points).map(lambda x: 3.0 * x).to_iter_dataset()
