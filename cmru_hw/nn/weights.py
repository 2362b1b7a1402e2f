"""Reading `weights.safetensors`, and every rule its tensors must keep."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network_config import UnitName

NON_NEGATIVE = ("threshold_low", "width", "gain")
"""FQ-BMRU parameters that are currents: below zero there is nothing to build."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whatever their dtype. ConfigError if it is not a whole one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: must be a whole safetensors file: {reason}") from error


def check_shapes(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """ConfigError unless the tensors have exactly the names and shapes expected, and are floats."""
    for problem, names in (
        ("missing from the network", sorted(expected.keys() - tensors.keys())),
        ("not part of the network", sorted(tensors.keys() - expected.keys())),
    ):
        if names:
            raise ConfigError(f"{path}: {_listed(names)}: {problem} that network.yaml describes")
    for name, value in sorted(tensors.items()):
        shape = list(expected[name].shape)
        if list(value.shape) != shape:
            raise ConfigError(f"{path}: {name}: shape must be {shape}, got {list(value.shape)}")
        if not value.is_floating_point():
            raise ConfigError(f"{path}: {name}: must be floating point, got {value.dtype}")


def check_values(tensors: dict[str, Tensor], unit: UnitName, path: Path) -> None:
    """ConfigError for a value that is not finite, or that an FQ-BMRU cannot have."""
    for name, value in tensors.items():
        _refuse(path, name, value, ~torch.isfinite(value), "must be finite in float32")
        if unit != "fq_bmru" or ".unit." not in name:
            continue
        kind = name.rsplit(".", 1)[1]
        if kind in NON_NEGATIVE:
            _refuse(path, name, value, value < 0, "must be >= 0")
        elif kind == "initial_state":
            _refuse(path, name, value, (value != 0) & (value != 1), "must be 0 or 1")


def _refuse(path: Path, name: str, value: Tensor, wrong: Tensor, rule: str) -> None:
    if wrong.any():
        index = torch.nonzero(wrong)[0].tolist()
        raise ConfigError(f"{path}: {name}{index}: {rule}, got {value[tuple(index)].item():g}")


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in names[:most]) + more
