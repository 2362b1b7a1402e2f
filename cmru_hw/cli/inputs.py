"""A design, and what it is run on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmru_hw.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cmru_hw.design import Design
    from cmru_hw.stimulus import Stimulus


def load(
    design: Path, input: Path, temperature: float | None = None, supply: float | None = None
) -> tuple[Design, Stimulus]:
    """A design with inputs from a file. Raises ConfigError for frames too short for it."""
    from cmru_hw.design import load_design
    from cmru_hw.stimulus import read_stimulus

    built = load_design(design).at(temperature, supply)
    stimulus = read_stimulus(input, built.facts.input_size, built.facts.frame_period)
    shortest = float((stimulus.starts[1:] - stimulus.starts[:-1]).min())
    if shortest <= built.facts.ramp:
        raise ConfigError(
            f"{input}: times: a frame must outlast the ramp of {built.facts.ramp:g} s, got {shortest:g}"
        )
    if built.clocks and shortest < built.facts.frame_period * (1 - 1e-9):
        raise ConfigError(
            f"{input}: times: the design's clock needs frames of {built.facts.frame_period:g} s or more, "
            f"got {shortest:g}"
        )
    return built, stimulus


def load_or_rest(
    design: Path, input: Path | None, temperature: float | None, supply: float | None
) -> tuple[Design, Stimulus]:
    """A design with inputs from a file, or with ten frames of zero input."""
    import numpy as np

    from cmru_hw.design import load_design
    from cmru_hw.stimulus import make_stimulus

    if input is not None:
        return load(design, input, temperature, supply)
    built = load_design(design).at(temperature, supply)
    rest = np.zeros((1, 10, built.facts.input_size))
    return built, make_stimulus(rest, built.facts.input_size, built.facts.frame_period)


def load_labelled(
    design: Path,
    task: str | None,
    input: Path | None,
    labels: Path | None,
    seed: int,
    temperature: float | None,
    supply: float | None,
) -> tuple[Design, Stimulus, NDArray[np.int64]]:
    """A design, inputs and their classes: of a task's test set, or of files."""
    import numpy as np

    from cmru_hw.config import validate
    from cmru_hw.design import load_design
    from cmru_hw.stimulus import make_stimulus

    if (task is None) == (input is None) or (input is None) != (labels is None):
        raise ConfigError("give either --task, or --input and --labels")
    if input is not None and labels is not None:
        built, stimulus = load(design, input, temperature, supply)
        try:
            with labels.open("rb") as file:
                truth = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"{labels}: not a .npy file of classes: {error}") from error
    else:
        from cmru_hw.training import TaskConfig, load_task

        built = load_design(design).at(temperature, supply)
        split = load_task(validate(TaskConfig, {"name": task}, "--task"), seed).test
        stimulus = make_stimulus(split.x, built.facts.input_size, built.facts.frame_period, split.lengths)
        truth = split.y
    if truth.shape != (len(stimulus),) or truth.dtype.kind not in "iu":
        raise ConfigError(f"{labels}: must hold {len(stimulus)} integers, got {truth.dtype} {truth.shape}")
    if truth.min() < 0 or truth.max() >= built.facts.num_classes:
        raise ConfigError(f"{labels}: classes must be within 0 and {built.facts.num_classes - 1}")
    return built, stimulus, truth
