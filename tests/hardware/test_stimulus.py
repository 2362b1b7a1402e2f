"""Inputs: what is completed, and what is refused with the array and the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmru_hw.errors import ConfigError
from cmru_hw.stimulus import Stimulus, make_stimulus, read_stimulus

X = np.arange(24, dtype=float).reshape(2, 4, 3)
FRAME = 1e-2


def made(x: Any = X, **given: Any) -> Stimulus:
    return make_stimulus(x, 3, FRAME, **given)


def test_frames_follow_one_another_by_default() -> None:
    stimulus = made()
    np.testing.assert_allclose(stimulus.starts, FRAME * np.arange(5))
    assert stimulus.lengths.tolist() == [4, 4]
    assert len(stimulus) == 2


def test_given_times_end_a_frame_period_after_the_last() -> None:
    np.testing.assert_allclose(made(times=[0.0, 0.1, 0.3, 0.4]).starts, [0, 0.1, 0.3, 0.4, 0.41])


def test_shares_are_each_frames_part_of_its_inputs_time() -> None:
    stimulus = made(lengths=np.array([4, 2]), times=[0.0, 0.01, 0.03, 0.06])
    np.testing.assert_allclose(stimulus.shares, [[1 / 7, 2 / 7, 3 / 7, 1 / 7], [1 / 3, 2 / 3, 0, 0]])


def test_select_takes_inputs_with_their_lengths() -> None:
    some = made(lengths=np.array([4, 2])).select([1])
    np.testing.assert_array_equal(some.x[0, :2], X[1, :2])
    assert some.lengths.tolist() == [2]


def test_integers_and_single_precision_are_taken() -> None:
    for dtype in (np.float32, np.int16, np.uint8):
        np.testing.assert_array_equal(made(X.astype(dtype)).x, X)


def test_nan_past_the_end_is_taken_and_within_it_refused() -> None:
    x = X.copy()
    x[1, 3, 0] = np.nan
    assert np.isfinite(made(x, lengths=np.array([4, 3])).x).all()
    with pytest.raises(ConfigError, match="x: must be finite"):
        made(x)


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (X[0], r"shape \[B, T, 3\], got \[4, 3\]"), (X[..., :2], r"got \[2, 4, 2\]"), (X[:0], "shape"),
        (X[:, :0], "shape"), (np.full((1, 1, 3), np.inf), "finite"), (X.astype(complex), "real numbers"),
        (X > 3, "real numbers"), (X.astype(str), "real numbers"), (X.astype(object), "real numbers"),
    ],
)  # fmt: skip
def test_wrong_x_is_refused(x: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        made(x)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lengths", np.array([4])), ("lengths", np.array([0, 4])), ("lengths", np.array([4, 5])),
        ("lengths", np.array([4.0, 2.0])), ("lengths", np.array([True, True])),
        ("lengths", np.array(["4", "2"])), ("times", np.array([0.0, 0.1, 0.2])),
        ("times", np.array([0.1, 0.2, 0.3, 0.4])), ("times", np.array([-0.1, 0.0, 0.1, 0.2])),
        ("times", np.array([0.0, 0.2, 0.1, 0.3])), ("times", np.array([0.0, 0.1, 0.1, 0.3])),
        ("times", np.array([0.0, np.nan, 0.1, 0.3])), ("times", np.array(["a", "b", "c", "d"])),
    ],
)  # fmt: skip
def test_wrong_lengths_and_times_are_refused_by_name(name: str, value: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"input: {name}"):
        made(**{name: value})
    path = tmp_path / "x.npz"
    np.savez(path, x=X, **{name: value})
    with pytest.raises(ConfigError, match=rf"x\.npz: {name}"):
        read_stimulus(path, 3, FRAME)


def test_both_file_formats_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, lengths=[4, 1], times=[0.0, 0.1, 0.2, 0.3])
    np.testing.assert_array_equal(read_stimulus(tmp_path / "x.npy", 3, FRAME).x, X)
    both = read_stimulus(tmp_path / "x.npz", 3, FRAME)
    assert both.lengths.tolist() == [4, 1]
    assert both.starts[-1] == pytest.approx(0.31)


class Pickled:
    """Would run code on loading."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    evil = np.array([[[Pickled()]]], dtype=object)
    np.save(tmp_path / "x.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=evil)
    np.savez(tmp_path / "y.npz", x=X, lengths=np.array([Pickled(), 1], dtype=object))
    for name in ("x.npy", "x.npz", "y.npz"):
        with pytest.raises(ConfigError, match="plain numbers"):
            read_stimulus(tmp_path / name, 3, FRAME)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", X)
    whole = (tmp_path / "whole.npy").read_bytes()
    np.savez(tmp_path / "whole.npz", x=X)
    zipped = (tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"PK", b"hello", whole[:-8], whole[:20], zipped[:100], zipped[:-40]):
        path = tmp_path / "x.npy"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.npy"):
            read_stimulus(path, 3, FRAME)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stimulus(tmp_path / "nothing.npy", 3, FRAME)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stimulus(tmp_path, 3, FRAME)


@pytest.mark.parametrize("arrays", [{"y": X}, {"x": X, "extra": X}])
def test_unknown_or_missing_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match="must hold x"):
        read_stimulus(tmp_path / "x.npz", 3, FRAME)
