"""Inputs of a simulation, read from `.npy` or `.npz` and checked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array


@dataclass(frozen=True, eq=False)
class Stimulus:
    """x [B, T, I] in model units, valid for `lengths` [B] frames; frame t starts at `starts[t]` (s).

    `starts` [T + 1] ends with the end of the last frame.
    """

    x: Array
    lengths: NDArray[np.int64]
    starts: Array

    def __len__(self) -> int:
        return len(self.x)

    def select(self, inputs: Sequence[int]) -> Stimulus:
        """Some of the inputs."""
        chosen = np.asarray(inputs, dtype=np.int64)
        return Stimulus(self.x[chosen], self.lengths[chosen], self.starts)

    @property
    def shares(self) -> Array:
        """Share of each frame in its input's valid time, [B, T]; 0 past the end."""
        duration = np.diff(self.starts)
        valid = np.arange(self.x.shape[1]) < self.lengths[:, None]
        return np.where(valid, duration, 0.0) / self.starts[self.lengths][:, None]


def make_stimulus(
    x: Array,
    input_size: int,
    frame_period: float,
    lengths: NDArray[np.int64] | None = None,
    times: Array | None = None,
    where: str = "input",
) -> Stimulus:
    """Check and complete arrays. `times` [T] are the frames' start times in s, default a frame period apart.

    Raises ConfigError naming `where`, the array and the rule.
    """
    x = np.asarray(x)
    if x.ndim != 3 or x.shape[2] != input_size or 0 in x.shape:
        raise ConfigError(f"{where}: x: must have shape [B, T, {input_size}], got {list(x.shape)}")
    if x.dtype.kind not in "fiu":
        raise ConfigError(f"{where}: x: must hold real numbers, got {x.dtype}")
    x = x.astype(np.float64)
    batch, frames, _ = x.shape
    if lengths is None:
        lengths = np.full(batch, frames, dtype=np.int64)
    lengths = np.asarray(lengths)
    if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
        raise ConfigError(f"{where}: lengths: must be {batch} integers, got {lengths.dtype} {lengths.shape}")
    if lengths.min() < 1 or lengths.max() > frames:
        raise ConfigError(
            f"{where}: lengths: must be within 1 and {frames}, got {lengths.min()}..{lengths.max()}"
        )
    lengths = lengths.astype(np.int64)
    valid = np.arange(frames) < lengths[:, None]
    if not np.isfinite(x[valid]).all():
        raise ConfigError(f"{where}: x: must be finite within the valid frames")
    x = np.where(valid[..., None], x, 0.0)
    if times is None:
        return Stimulus(x, lengths, frame_period * np.arange(frames + 1))
    times = np.asarray(times)
    if times.shape != (frames,) or times.dtype.kind not in "fiu" or not np.isfinite(times).all():
        got = f"{times.dtype} {list(times.shape)}"
        raise ConfigError(f"{where}: times: must be {frames} finite numbers, got {got}")
    times = times.astype(np.float64)
    if times[0] != 0 or (np.diff(times) <= 0).any():
        worst = times[0] if times[0] != 0 else times[1:][np.diff(times) <= 0][0]
        raise ConfigError(f"{where}: times: must start at 0 and increase (s), got {worst:g}")
    return Stimulus(x, lengths, np.append(times, times[-1] + frame_period))


def read_stimulus(path: Path, input_size: int, frame_period: float) -> Stimulus:
    """A `.npy` file with x, or an `.npz` with x and optionally lengths [B] and times [T].

    Raises ConfigError naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            bare = isinstance(content, np.ndarray)
            arrays = {"x": content} if bare else {name: content[name] for name in content.files}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path}: not a .npy or .npz file of plain numbers: {error}") from error
    if "x" not in arrays or set(arrays) - {"x", "lengths", "times"}:
        raise ConfigError(f"{path}: must hold x and may hold lengths and times, got {sorted(arrays)}")
    return make_stimulus(
        arrays["x"], input_size, frame_period, arrays.get("lengths"), arrays.get("times"), where=str(path)
    )
