"""Checkpoints are compared on examples that are neither trained on nor held out; reports say what was evaluated."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest

from dpm_jax.data import image_set, sources
from dpm_jax.data.image_set import ImageSet
from dpm_jax.evaluation import likelihood_report, report
from dpm_jax.training import loop, validation
from dpm_jax.training import step as step_lib
from dpm_jax.training.metrics import read
from dpm_jax.training.validation import Validation, difference, validate
from dpm_jax.units import bits
from tests.test_training import small

KEY = jax.random.key(0)
NUMBERS = np.arange(200.0)[:, None] * np.ones((1, 2))


def values(standardization, x):
    return set(np.asarray(standardization.invert(x))[:, 0].round().astype(int).tolist())


def test_validation_vectors_are_neither_trained_on_nor_held_out():
    source = sources.vector_source(Path("x.npy"), NUMBERS, 0.1, binary=False, validation=0.05)
    parts = [
        values(source.standardization, x)
        for x in (source.supply(KEY, 5000), source.validation(KEY, 10**6), source.held_out(KEY, 10**6))
    ]
    assert [len(part) for part in parts] == [171, 9, 20]
    assert len(set.union(*parts)) == 200
    assert source.num_validation == 9
    # The same rows whenever the file is opened, in whatever order they are asked for.
    again = sources.vector_source(Path("x.npy"), NUMBERS, 0.1, binary=False, validation=0.05)
    assert values(source.standardization, again.validation(jax.random.key(5), 100)) == parts[1]
    # The units are those of the whole split, so that older workdirs still fit.
    whole = sources.vector_source(Path("x.npy"), NUMBERS, 0.1, binary=False)
    np.testing.assert_array_equal(whole.standardization.mean, source.standardization.mean)
    assert len(values(source.standardization, whole.supply(KEY, 5000))) == 180


@pytest.mark.parametrize("lazy", [False, True])
def test_validation_images_are_not_trained_on(lazy):
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    trained, validated = image_set.apart(list(images) if lazy else images, 0.1, None)
    assert (len(trained), len(validated)) == (45, 5)
    numbers = [int(image[0, 0, 0]) for part in (trained, validated) for image in part]
    assert sorted(numbers) == list(range(50))
    source = sources.image_source(ImageSet(list(images) if lazy else images, images[:3], None), 0.1)
    seen = values(source.standardization, source.validation(KEY, 100)[:, :, 0, 0])
    assert seen == {int(image[0, 0, 0]) for image in validated}
    assert len(source.train_examples(100)) == 45


def test_a_single_image_spares_its_lowest_rows_if_it_can():
    image = np.arange(100, dtype=np.uint8)[None, :, None, None] * np.ones((1, 1, 30, 1), np.uint8)
    trained, validated = image_set.apart(image, 0.02, 20)
    assert (trained.shape[1], validated.shape[1]) == (80, 20)
    for few in (image_set.apart(image, 0.02, 30), image_set.apart(image, 0.0, 20)):
        assert [part.shape[1] for part in few] == [100, 100]


def test_what_is_held_out_decides_nothing(tmp_path):
    def no_one(key, num):
        raise AssertionError("the test split was looked at")

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 2)))
    built, source = small(
        train__steps=4, train__checkpoint_every=2, data__name="file", data__file__path=str(tmp_path / "x.npy")
    )
    loop.train(built, source._replace(held_out=no_one), tmp_path / "run")
    assert loop.load_params(built, tmp_path / "run", which="best")[0] in (2, 4)
    assert all(line["validation_stderr_bits"] > 0 for line in read(tmp_path / "run" / "metrics.jsonl"))


def test_reports_say_how_many_examples_were_evaluated(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2)))
    built, source = small(data__name="file", data__file__path=str(tmp_path / "x.npy"), num_timesteps=3)
    params = built.init(KEY)
    found = report.evaluate(KEY, built, params, source, 20_000, 0)
    assert found.num_examples == 2
    assert "2 held-out examples" in report.table(found)
    ais = likelihood_report.evaluate(KEY, built, params, source, found, 1, 100)
    assert ais.ais_examples == 2


def test_rounds_are_taken_until_the_error_is_small_or_the_cost_is_not():
    built, source = small(train__checkpoint_every=200, train__batch_size=256)
    state = step_lib.init(built)
    most = int(0.05 * 3 * 200 * 256 / 1024)
    find = validate(built, source)
    found = find(state)
    assert found == find(state)
    assert len(found.rounds) == most
    # Fresh examples in every round: the rounds' own spread says the same.
    assert found.stderr == pytest.approx(np.std(found.rounds, ddof=1) / np.sqrt(most), rel=0.75)
    exact = report.evaluate(KEY, built, step_lib.averaged_params(built, state), source, 4000, 0)
    assert abs(-bits(found.mean) - exact.bound_bits.mean) < 4 * np.hypot(bits(found.stderr), exact.bound_bits.stderr)
    assert bits(found.stderr) > 0.02
    # An easy task: 1024 easy numbers.
    easy = built._replace(validation_loss=lambda params, key, x_0: (x_0[:, 0] * 0.01, x_0.std() * 0.001))
    assert len(validate(easy, source)(state).rounds) == 2


def test_looking_again_at_few_examples_does_not_make_them_many():
    """Rounds end when their noise is small; the error that is reported is that of 9 examples."""
    built, _ = small(train__checkpoint_every=400, train__batch_size=9)
    source = sources.vector_source(Path("x.npy"), NUMBERS, 0.1, binary=False, validation=0.05)

    def losses(params, key, x_0):
        loss = x_0[:, 0] + 0.1 * jax.random.normal(key, (len(x_0),))
        return loss, loss.std() / 3

    found = validate(built._replace(validation_loss=losses), source)(step_lib.init(built))
    x = np.asarray(source.validation(KEY, 9))[:, 0]
    # The noise of their mean after R rounds is 0.1 / sqrt(9 R) nats, to be 0.02 bits.
    assert abs(len(found.rounds) - 0.1**2 / 9 / (0.02 * np.log(2)) ** 2) < 4
    assert found.stderr == pytest.approx(x.std(ddof=1) / 3, rel=0.05)


def test_checkpoints_are_compared_by_paired_differences():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    mean, stderr = difference(noise + 0.05 + 0.01 * rng.normal(size=40), noise[:30])
    assert abs(mean - 0.05) < 4 * stderr
    assert stderr < 0.003
    assert math.isnan(difference([1.0], [2.0])[1])


def test_training_says_when_the_best_checkpoint_is_not_the_last(tmp_path, monkeypatch):
    built, source = small(train__checkpoint_every=20)
    found = iter([(0.7, 0.9), (0.3, 0.5, 0.6), (0.45, 0.65)])
    monkeypatch.setattr(loop, "validate", lambda *_: lambda state: Validation(next(found), 0.0, 0.1))
    said = []
    loop.train(built, source, tmp_path, said.append)
    # 0.15 nats in both of the rounds that they have in common.
    assert said == [
        "on validation examples the checkpoint of step 40 is better than that of step 60, by 0.2164 +- 0.0000 bits; "
        "--checkpoint=best has evaluate.py and sample.py use it"
    ]
    assert loop.load_params(built, tmp_path, which="best")[0] == 40
    assert validation.difference((0.45, 0.65), (0.3, 0.5, 0.6))[0] == pytest.approx(0.15)
