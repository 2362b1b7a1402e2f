"""Small random networks and inputs that the hardware tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cmru_hw.nn.network import Network, NetworkConfig

UNITS = 16
"""Unit transistors of a ratio of 1, the mapping's default."""


def random_network(seed: int, on_grid: bool = True, **changes: Any) -> Network:
    """A network, by default FQ-BMRU, whose latches really switch and with weights in whole sixteenths."""
    sizes: dict[str, Any] = {
        "unit": "fq_bmru", "input_size": 3, "model_size": 4, "hidden_size": 4, "num_layers": 2,
        "num_classes": 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(NetworkConfig(**(sizes | changes)))
    random = np.random.default_rng(seed)
    state = {}
    for name, value in network.state_dict().items():
        shape, kind = tuple(value.shape), name.rsplit(".", 1)[-1]
        if kind == "weight":
            new = random.normal(0, 0.7 / np.sqrt(shape[1] / 4), shape)
            new = np.rint(new * UNITS) / UNITS if on_grid else new
        elif kind == "bias":
            new = random.normal(0.3, 0.2, shape)
        elif kind == "initial_state":
            reach = network.config.levels or 1
            states = {"fq_bmru": [0, 1], "bmru": [-1, 1], "alpha_cmru": [0]}
            new = random.choice(states.get(network.config.unit, range(-reach, reach + 1)), shape)
        else:
            limits = {"threshold_low": (0.15, 0.6), "width": (0.1, 0.5), "gain": (0.5, 1.5)}
            new = random.uniform(*(limits | {"threshold": (0.3, 0.8)})[kind], shape)
            if kind == "gain" and network.config.unit != "fq_bmru":
                new = new * random.choice([-0.4, 0.4], shape)
        state[name] = torch.tensor(np.asarray(new), dtype=torch.float32)
    network.load_state_dict(state)
    return network.eval()


def random_input(seed: int, batch: int = 4, frames: int = 12, size: int = 3) -> np.ndarray:
    """x [B, T, I]."""
    return np.random.default_rng([seed, 1]).normal(0, 1, (batch, frames, size))
