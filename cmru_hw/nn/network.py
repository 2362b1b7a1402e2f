"""The network that can be built: projection, recurrent blocks, readout; and the folder it is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import safetensors.torch
import torch
from torch import Tensor, nn

from cmru_hw.config import load, to_yaml, write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.nn.block import Block
from cmru_hw.nn.cell import Cell
from cmru_hw.nn.network_config import UNITS_WITH_OPTION
from cmru_hw.nn.network_config import NetworkConfig as NetworkConfig
from cmru_hw.nn.pooling import pool_scores as pool_scores
from cmru_hw.nn.threshold_cell import Annealed
from cmru_hw.nn.weights import check_shapes, check_values, read_weights

CONFIG_FILE = "network.yaml"
WEIGHTS_FILE = "weights.safetensors"


class Trace(TypedDict):
    """What a network did: `inputs` [B, T, H] of each block before any relu, `candidates` and `states`
    [B, T, N] of each unit (no candidates for LRU, minGRU and GRU), `logits` [B, T, C]."""

    inputs: list[Tensor]
    candidates: list[Tensor]
    states: list[Tensor]
    logits: Tensor


class Network(nn.Module):
    """x_0 = W_p u + b_p; one `Block` per layer; logits = W_r x_L + b_r at every frame.

    State-dict names: projection, layers.{l}.unit.*, layers.{l}.output, readout. u is [B, T, I].

    >>> import torch
    >>> config = NetworkConfig(
    ...     unit="fq_bmru", input_size=3, model_size=4, hidden_size=5, num_layers=2, num_classes=2
    ... )
    >>> Network(config)(torch.zeros(7, 10, 3)).shape
    torch.Size([7, 2])
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.input_size, config.model_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.readout = nn.Linear(config.model_size, config.num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """One score per class [B, C]: the logits of the valid frames, pooled as the configuration says."""
        return pool_scores(self.frame_logits(x), lengths, self.config.pool)

    def frame_logits(self, x: Tensor) -> Tensor:
        """The logits of every frame, [B, T, C]."""
        return self.trace(x)["logits"]

    def trace(self, x: Tensor) -> Trace:
        """Everything the network does on x [B, T, I], differentiable; candidates are free of noise."""
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.config.input_size:
            raise ValueError(f"x must be [B, T, {self.config.input_size}] with T >= 1, got {list(x.shape)}")
        inputs: list[Tensor] = []
        candidates: list[Tensor] = []
        states: list[Tensor] = []
        x = self.projection(x)
        for block in self.layers:
            inputs.append(x)
            x, c, s = block(x)
            states.append(s)
            if c is not None:
                candidates.append(c)
        return {"inputs": inputs, "candidates": candidates, "states": states, "logits": self.readout(x)}

    def resume(self, x: Tensor, states: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, C] after the last frame of x [B, T, I], and each layer's state [B, N] there.

        `states` are those before the first frame (the units' own if None), so a sequence may be given in
        pieces, whose memory does not grow with it.
        """
        x = self.projection(x)
        after = []
        for layer, block in enumerate(self.layers):
            x, _, s = block(x, None if states is None else states[layer])
            after.append(s[:, -1].clone())
        return self.readout(x[:, -1]), after

    @property
    def units(self) -> list[Cell]:
        """The recurrent cell of each layer."""
        return [block.unit for block in self.layers if isinstance(block, Block)]

    @property
    def anneals(self) -> bool:
        """Whether the unit has an epsilon."""
        return self.config.unit in UNITS_WITH_OPTION["epsilon"]

    def set_epsilon(self, value: float) -> None:
        """Set every unit's epsilon, and the configuration's with it. ValueError where the unit has none."""
        if not self.anneals:
            raise ValueError(f"epsilon belongs to fq_bmru and bmru only, unit is {self.config.unit}")
        for unit in self.units:
            if isinstance(unit, Annealed):
                unit.epsilon = value
        self.config = self.config.model_copy(update={"epsilon": float(value)})

    def project_(self) -> None:
        """Put parameters back into their allowed range; call it after each optimiser step."""
        for unit in self.units:
            unit.project_()

    def num_parameters(self) -> int:
        """How many numbers training moves."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def save_network(network: Network, folder: str | Path) -> None:
    """Write `network.yaml` and `weights.safetensors` (float32) into `folder`, each atomically.

    Raises ConfigError for values that `load_network` would refuse (NaN, a negative width).
    """
    path = Path(folder) / WEIGHTS_FILE
    tensors = {
        name: value.detach().cpu().float().contiguous() for name, value in network.state_dict().items()
    }
    check_values(tensors, network.config.unit, path)
    try:
        write_atomically(path, safetensors.torch.save(tensors))
        write_atomically(path.with_name(CONFIG_FILE), to_yaml(network.config.model_dump()))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def load_network(folder: str | Path) -> Network:
    """The network saved in `folder`, in float32 on the CPU and in evaluation mode.

    Weights of any floating dtype are accepted and converted. Raises ConfigError, in one line that names
    the file, the field or tensor, and the rule, for everything that is missing, unknown or out of range.

    >>> import tempfile
    >>> config = NetworkConfig(
    ...     unit="cmru", input_size=3, model_size=4, hidden_size=5, num_layers=1, num_classes=2, levels=3
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Network(config), folder)
    ...     load_network(folder).config.levels
    3
    """
    path = Path(folder) / WEIGHTS_FILE
    config = load(NetworkConfig, path.with_name(CONFIG_FILE))
    tensors = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        network = Network(config)
    check_shapes(tensors, network.state_dict(), path)
    tensors = {name: value.float() for name, value in tensors.items()}
    check_values(tensors, config.unit, path)
    network.load_state_dict(tensors, assign=True)
    return network.eval()
