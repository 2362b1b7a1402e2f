"""The tasks: counts against the publication, and generated data against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from cmru_hw.config import packaged, validate
from cmru_hw.errors import ConfigError
from cmru_hw.training import Split, TaskConfig, load_task

VOWELS = TaskConfig(name="japanese_vowels")


def small_copy(**options: object) -> TaskConfig:
    return TaskConfig.model_validate(
        {"name": "copy_first_input", "length": 12, "train_size": 80, "test_size": 40, **options}
    )


def test_japanese_vowels_has_the_published_counts() -> None:
    task = load_task(VOWELS, seed=0)
    assert (len(task.train), len(task.test), task.validation) == (270, 370, None)
    assert (task.input_size, task.num_classes, len(task.class_names)) == (12, 9, 9)
    lengths = np.concatenate([task.train.lengths, task.test.lengths])
    assert (lengths.min(), lengths.max()) == (7, 29)
    assert np.bincount(task.train.y).tolist() == [30] * 9
    assert np.bincount(task.test.y).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_archive_holds_the_published_values() -> None:
    with np.load(packaged("models", "data", "japanese_vowels.npz"), allow_pickle=False) as archive:
        first = archive["x"][0]
        assert archive["lengths"][0] == 20
    np.testing.assert_allclose(first[0, :3], [1.860936, -0.207383, 0.261557], rtol=1e-6)
    np.testing.assert_allclose(first[19, 0], 1.261441, rtol=1e-6)


def test_vowels_are_standardised_over_valid_training_frames_and_padding_is_zero() -> None:
    task = load_task(VOWELS, seed=0)
    for split in (task.train, task.test):
        valid = np.arange(split.x.shape[1]) < split.lengths[:, None]
        assert split.x.dtype == np.float32
        assert not split.x[~valid].any()
    valid = np.arange(task.train.x.shape[1]) < task.train.lengths[:, None]
    frames = task.train.x[valid].astype(np.float64)
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)


def test_validation_takes_the_same_share_of_each_class_and_overlaps_nothing() -> None:
    config = VOWELS.model_copy(update={"validation_fraction": 0.2})
    task = load_task(config, seed=3)
    assert task.validation is not None
    assert np.bincount(task.validation.y).tolist() == [6] * 9
    assert np.bincount(task.train.y).tolist() == [24] * 9
    train, held = ({frames.tobytes()[: 7 * 48] for frames in s.x} for s in (task.train, task.validation))
    assert len(train) + len(held) == 270
    assert not train & held
    again = load_task(config, seed=3).validation
    other = load_task(config, seed=4).validation
    assert again is not None
    assert other is not None
    assert np.array_equal(task.validation.x, again.x)
    assert not np.array_equal(task.validation.x, other.x)
    np.testing.assert_array_equal(task.test.x, load_task(VOWELS, seed=0).test.x)


def test_copy_first_input_is_one_hot_then_noise() -> None:
    task = load_task(small_copy(classes=5, noise_std=0.25, train_size=4000), seed=1)
    x, y = task.train.x, task.train.y
    assert x.shape == (4000, 12, 5)
    np.testing.assert_array_equal(x[:, 0], np.eye(5)[y])
    assert abs(x[:, 1:].std() - 0.25) < 0.005
    assert set(y) == set(range(5))
    assert (task.train.lengths == 12).all()


def test_copy_first_input_follows_from_the_seed() -> None:
    one, same, other = (load_task(small_copy(), seed) for seed in (7, 7, 8))
    assert np.array_equal(one.train.x, same.train.x)
    assert np.array_equal(one.test.y, same.test.y)
    assert not np.array_equal(one.train.x, other.train.x)
    assert not np.array_equal(one.train.x[:40], one.test.x)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"name": "mnist"}, "'japanese_vowels' or 'copy_first_input'.*'mnist'"),
        ({"name": "japanese_vowels", "length": 10}, "length is an option of copy_first_input"),
        ({"name": "copy_first_input", "length": 1}, "length"),
        ({"name": "copy_first_input", "lenght": 10}, "lenght: unknown key"),
        ({"name": "japanese_vowels", "validation_fraction": 0.9}, "validation_fraction"),
        ({}, "name: Field required"),
    ],
)
def test_bad_task_is_a_config_error(content: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(TaskConfig, content, "config.yaml")


def test_unknown_name_that_evaded_validation_lists_the_known_tasks() -> None:
    with pytest.raises(ConfigError, match=r"'mnist'; known: japanese_vowels, copy_first_input"):
        load_task(VOWELS.model_copy(update={"name": "mnist"}), seed=0)


def test_validation_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds out none"):
        load_task(small_copy(train_size=8, validation_fraction=0.01), seed=0)


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [([4, 2], "lengths must be 1 to 3 frames, got 2 to 4"), ([0, 1], "got 0 to 1"), ([1], "shapes")],
)
def test_split_refuses_what_does_not_fit(lengths: list[int], complaint: str) -> None:
    x = np.zeros((2, 3, 1), dtype=np.float32)
    with pytest.raises(ConfigError, match=complaint):
        Split(x, np.zeros(2, dtype=np.int64), np.array(lengths))
