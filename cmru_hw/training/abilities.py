"""What the trainer may ask of a network that is more than an `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeGuard, runtime_checkable

from torch import nn

from cmru_hw.nn.network import Network


@runtime_checkable
class Annealed(Protocol):
    """A network whose units may have an epsilon: 1 trains a BMRU like a CMRU, 0 is the BMRU."""

    @property
    def anneals(self) -> bool: ...

    def set_epsilon(self, value: float) -> None: ...


@runtime_checkable
class Projected(Protocol):
    """A network that puts its parameters back into their range after an optimiser step."""

    def project_(self) -> None: ...


def anneals(network: nn.Module) -> TypeGuard[Annealed]:
    """Whether the network has an epsilon to anneal."""
    return isinstance(network, Annealed) and network.anneals


@contextmanager
def pool_with_gradient(network: nn.Module) -> Iterator[None]:
    """Votes carry no gradient: a voting network is trained on the mean logit."""
    if not (isinstance(network, Network) and network.config.pool == "vote"):
        yield
        return
    config = network.config
    network.config = config.model_copy(update={"pool": "mean"})
    try:
        yield
    finally:
        network.config = config
