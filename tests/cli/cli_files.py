"""What the command-line tests share: how a command ended, and a network as if trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cmru_hw.nn.network import Network, NetworkConfig


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


def imported_network(seed: int = 0, size: int = 13) -> Network:
    """As if trained elsewhere: 2 layers of 4 cells, weights off the grid."""
    config = NetworkConfig(
        unit="fq_bmru", input_size=size, model_size=4, hidden_size=4, num_layers=2, num_classes=2
    )
    network = Network(config)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            kind, shape = name.rsplit(".", 1)[-1], tuple(value.shape)
            if kind == "weight":
                new = random.normal(0, 0.7 / np.sqrt(shape[1] / 4), shape)
            elif kind == "initial_state":
                new = np.zeros(shape)
            else:
                low, high = {"threshold_low": (0.2, 0.5), "width": (0.15, 0.5), "gain": (0.6, 1.4)}.get(
                    kind, (0.1, 0.5)
                )
                new = random.uniform(low, high, shape)
            value.copy_(torch.from_numpy(new))
    return network
