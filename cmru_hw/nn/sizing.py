"""Networks of a wanted number of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmru_hw.config import validate
from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig

LARGEST = 4096


def count_parameters(config: NetworkConfig) -> int:
    """How many numbers training moves in such a network; none is made."""
    with torch.device("meta"):
        return Network(config).num_parameters()


def sized(target: int, input_size: int, num_classes: int, section: Mapping[str, Any]) -> NetworkConfig:
    """The network with model_size = hidden_size whose parameter count is nearest to `target`.

    `section` has the unit and its options, and `num_layers` if not 1; of two equally near sizes the smaller
    one is taken. Raises ConfigError for a target that the smallest network exceeds, or that no size reaches.

    >>> config = sized(500, 12, 9, {"unit": "cmru"})
    >>> config.hidden_size, count_parameters(config)
    (10, 479)
    """

    layers = section.get("num_layers", 1)

    def of(size: int) -> NetworkConfig:
        sizes = {"input_size": input_size, "num_classes": num_classes, "num_layers": layers}
        return validate(
            NetworkConfig, {**section, **sizes, "model_size": size, "hidden_size": size}, "network"
        )

    low, high = 1, LARGEST
    if not count_parameters(of(low)) <= target <= count_parameters(of(high)):
        counts = f"{count_parameters(of(low))} to {count_parameters(of(high))}"
        raise ConfigError(
            f"parameters: {section['unit']}, num_layers {layers}, has {counts}, wanted {target}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count_parameters(of(middle)) <= target else (low, middle)
    return min((of(low), of(high)), key=lambda config: abs(count_parameters(config) - target))
