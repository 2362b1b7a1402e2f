"""The tasks: counts against the publication, and generated data against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from cmru_hw.config import packaged, validate
from cmru_hw.errors import ConfigError
from cmru_hw.training import Split, Task, TaskConfig, load_task
from cmru_hw.training.tasks import TASK_NAMES, Expressions
from cmru_hw.training.tasks.shapes_1d import SHAPES

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
    config = TaskConfig(name="japanese_vowels", validation_fraction=0.2)
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
        ({"name": "mnist"}, "'mnist'.*" + ".*".join(f"'{name}'" for name in TASK_NAMES)),
        ({"name": "japanese_vowels", "length": 10}, r"japanese_vowels\.length: unknown key"),
        ({"name": "parity", "length": 5, "events": 6}, r"events must be at most length \(5\), got 6"),
        ({"name": "flip_flop", "bits": 9}, "bits"),
        ({"name": "shapes_1d", "noise_std": -0.1}, "noise_std"),
        ({"name": "expressions", "operators": ["MEAN"]}, r"operators\.0: Input should be 'MIN', 'MAX'"),
        ({"name": "expressions", "operators": []}, "operators: .*at least 1"),
        ({"name": "copy_first_input", "length": 1}, "length"),
        ({"name": "copy_first_input", "lenght": 10}, "lenght: unknown key"),
        ({"name": "japanese_vowels", "validation_fraction": 0.9}, "validation_fraction"),
        ({}, "Unable to extract tag using discriminator 'name'"),
    ],
)
def test_bad_task_is_a_config_error(content: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(TaskConfig, content, "config.yaml")


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


def generated(name: str, seed: int = 5, **options: object) -> Task:
    content = {"name": name, "train_size": 300, "test_size": 50, **options}
    return load_task(TaskConfig.model_validate(content), seed)


@pytest.mark.parametrize("name", ["copy_first_input", "flip_flop", "parity", "shapes_1d", "expressions"])
def test_generated_tasks_follow_from_the_seed_and_their_sets_differ(name: str) -> None:
    one, same, other = (generated(name, seed, validation_fraction=0.2) for seed in (7, 7, 8))
    assert one.validation is not None
    assert one.train.x.shape[2] == one.input_size
    assert one.train.x.dtype == np.float32
    assert (len(one.class_names), len(one.test)) == (one.num_classes, 50)
    assert len(one.train) + len(one.validation) == 300
    assert 0.1 < len(one.validation) / 300 < 0.3
    for key in ("x", "y", "lengths"):
        assert np.array_equal(getattr(one.train, key), getattr(same.train, key))
        assert np.array_equal(getattr(one.test, key), getattr(same.test, key))
    assert not np.array_equal(one.test.x, other.test.x)
    assert not np.array_equal(one.train.x[:50, :4], one.test.x[:50, :4])


def test_flip_flop_has_the_state_of_flip_flops_run_frame_by_frame() -> None:
    task = generated("flip_flop", bits=3, length=40, pulse_probability=0.1, noise_std=0.05)
    for frames, label in zip(task.train.x, task.train.y, strict=True):
        bits = [0, 0, 0]
        for frame in frames:
            for channel, value in enumerate(frame):
                if abs(value) > 0.5:
                    bits[channel] = int(value > 0)
        assert label == bits[0] + 2 * bits[1] + 4 * bits[2]
    pulses = np.abs(task.train.x) > 0.5
    assert abs(pulses.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / pulses.size)
    assert abs(task.train.x[~pulses].std() - 0.05) < 0.001


def test_parity_is_that_of_the_events() -> None:
    task = generated("parity", length=20, events=5, noise_std=0.05, train_size=2000)
    parity, counts = [], []
    for frames in task.train.x[:, :, 0]:
        odd = False
        for value in frames:
            odd = odd != (value > 0.5)
        parity.append(odd)
        counts.append((frames > 0.5).sum())
    assert task.train.y.tolist() == [int(odd) for odd in parity]
    expected = len(counts) / 6
    assert np.abs(np.bincount(counts, minlength=6) - expected).max() < 4 * np.sqrt(expected)
    places = (task.train.x[:, :, 0] > 0.5).sum(0)
    assert np.abs(places - places.mean()).max() < 4 * np.sqrt(places.mean())


def test_shapes_without_noise_and_shear_are_a_template_stretched_shifted_and_scaled() -> None:
    task = generated("shapes_1d", length=200, shear=0.0, noise_std=0.0)
    for frames, label in zip(task.train.x[:60, :, 0], task.train.y[:60], strict=True):
        knots = np.array(list(SHAPES.values())[label])
        best = np.inf
        for width in np.arange(79, 140, 1.0):
            for start in np.arange(0, 199 - width + 1, 2.0):
                shape = np.zeros(200)
                for t in range(int(np.ceil(start)), int(start + width) + 1):
                    place = 4 * (t - start) / width
                    left = min(int(place), 3)
                    shape[t] = knots[left] + (place - left) * (knots[left + 1] - knots[left])
                scale = shape @ frames / (shape @ shape)
                best = min(best, np.abs(frames - scale * shape).mean() + 10 * max(0, abs(scale - 1) - 0.26))
            if best < 0.02:
                break
        assert best < 0.02, task.class_names[label]


def test_shear_tilts_a_shape_about_the_middle() -> None:
    plain, tilted = (generated("shapes_1d", length=41, shear=shear, noise_std=0.0) for shear in (0.0, 0.3))
    difference = (tilted.train.x - plain.train.x)[:, :, 0]
    np.testing.assert_allclose(difference[:, 20], 0, atol=1e-6)
    np.testing.assert_allclose(difference[:, 0], -difference[:, -1], atol=1e-6)
    np.testing.assert_allclose(np.diff(difference, 2), 0, atol=1e-6)
    assert 0.14 < difference[:, -1].max() <= 0.15


def value_of(tokens: list[str], digits: int) -> int:
    """An evaluator with a stack, where the generator has recursion."""
    stack: list[tuple[str, list[int]]] = [("", [])]
    for token in tokens:
        if token.startswith("["):
            stack.append((token[1:], []))
            continue
        value = -1
        if token == "]":
            operator, values = stack.pop()
            value = int(
                {
                    "MIN": np.min(values),
                    "MAX": np.max(values),
                    "MED": np.quantile(values, 0.5, method="lower"),
                    "SM": np.sum(values) % digits,
                }[operator]
            )
        stack[-1][1].append(int(token) if token != "]" else value)
    ((_, (result,)),) = stack
    return result


@pytest.mark.parametrize(
    "options",
    [{}, {"digits": 5, "depth": 4, "arguments": 5, "length": 60}, {"operators": ["MIN", "SM"], "depth": 1}],
)
def test_expressions_have_the_value_that_a_stack_finds(options: dict[str, object]) -> None:
    task = generated("expressions", **options)
    config = Expressions.model_validate({"name": "expressions", **options})
    deepest = 0
    for frames, label, length in zip(task.train.x, task.train.y, task.train.lengths, strict=True):
        assert (frames[:length].sum(1) == 1).all()
        assert not frames[length:].any()
        tokens = [config.tokens[place] for place in frames[:length].argmax(1)]
        assert value_of(tokens, config.digits) == label
        nesting = np.cumsum([token.startswith("[") - (token == "]") for token in tokens])
        deepest = max(deepest, nesting.max())
    assert deepest == config.depth
    assert task.train.lengths.max() <= config.length
    assert np.ptp(np.bincount(task.train.y, minlength=config.digits)) <= 1


def test_basic_motions_has_the_published_counts_and_values() -> None:
    task = load_task(TaskConfig(name="basic_motions"), seed=0)
    for split in (task.train, task.test):
        assert split.x.shape == (40, 100, 6)
        assert np.bincount(split.y).tolist() == [10] * 4
    frames = task.train.x.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)
    with np.load(packaged("models", "data", "basic_motions.npz"), allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["x"][0, :4, 0], [0.079106, 0.079106, -0.903497, 1.116125])


def test_digits_are_read_row_by_row() -> None:
    task = load_task(TaskConfig(name="digits"), seed=0)
    assert (task.train.x.shape, task.test.x.shape) == ((1297, 64, 1), (500, 64, 1))
    assert np.bincount(np.r_[task.train.y, task.test.y]).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert task.train.y[0] == 0
    ink = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]
    np.testing.assert_allclose(task.train.x.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(task.train.x.std(), 1, atol=1e-5)
    blank, one = task.train.x[0, 0, 0], np.ptp(task.train.x) / 16
    np.testing.assert_allclose(task.train.x[0, :16, 0], blank + one * np.array(ink), rtol=1e-4, atol=1e-5)
