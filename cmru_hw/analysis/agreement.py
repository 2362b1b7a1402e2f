"""How far the three models of one network agree: trained, behavioural, SPICE."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cmru_hw.design import Design
from cmru_hw.primitives.device import Array
from cmru_hw.result import Result
from cmru_hw.stimulus import Stimulus

if TYPE_CHECKING:
    from cmru_hw.nn.network import Network

Kind = Literal["static", "dynamic", "inherited"]


class Outcome(Protocol):
    """What is compared: logits [B, T, C] in model units, decision [B], states [B, T, N] by layer."""

    @property
    def logits(self) -> Array: ...
    @property
    def decision(self) -> NDArray[np.int64]: ...
    @property
    def states(self) -> list[NDArray[Any]]: ...


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained network's outcome."""

    logits: Array
    decision: NDArray[np.int64]
    states: list[NDArray[Any]]


@dataclass(frozen=True)
class Disagreement:
    """A state sample that differs. `margin` (A): how far the candidate was from its nearest threshold.

    static: the candidate at the frame's end is itself on the other side; inherited: held from an earlier
    frame, or from a layer before that differs; dynamic: a transient inside the frame was latched.
    """

    input: int
    frame: int
    layer: int
    cell: int
    kind: Kind
    margin: float


@dataclass(frozen=True)
class Agreement:
    """Of two models over the same inputs. `states` are samples at frame ends; `logit_error_a` is rms, A.

    States that are not whole are equal within half a packet, the reference's mean change of the state;
    `state_error_packets` is their rms difference in packets, None where all states are whole.
    """

    inputs: int
    decisions: int  # equal ones
    decision_fraction: float
    states: int  # equal samples
    samples: int
    state_fraction: float
    logit_error_a: float
    state_error_packets: float | None
    kinds: dict[Kind, int]
    disagreements: list[Disagreement]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_trained(network: Network, design: Design, stimulus: Stimulus) -> Trained:
    """The trained network on the inputs, in float32 as it was trained."""
    import torch

    from cmru_hw.nn.network import pool_scores

    with torch.no_grad():
        trace = network.eval().trace(torch.from_numpy(stimulus.x).float())
        lengths = torch.from_numpy(stimulus.lengths)
        scores = pool_scores(trace["logits"], lengths, network.config.pool)
    past = (np.arange(stimulus.x.shape[1]) >= stimulus.lengths[:, None])[..., None]
    return Trained(
        logits=np.where(past, np.nan, trace["logits"].double().numpy()),
        decision=scores.argmax(1).numpy(),
        states=[
            np.where(past, memory.absent, states.double().numpy()).astype(memory.dtype)
            for memory, states in zip(design.memories, trace["states"], strict=True)
        ],
    )


def agreement(design: Design, reference: Outcome, circuit: Result) -> Agreement:
    """Compare a circuit model (behavioural or SPICE) with a reference over the same inputs."""
    disagreements: list[Disagreement] = []
    equal = samples = 0
    errors: list[Array] = []
    valid = np.isfinite(circuit.logits[..., :1])
    upstream = np.zeros(valid.shape[:2], dtype=bool)
    for layer, memory in enumerate(design.memories):
        expected, found = reference.states[layer], circuit.states[layer]
        error = np.where(valid, found.astype(float) - expected, 0.0)
        start = np.broadcast_to(memory.start() / memory.unit, found[:, :1].shape)
        resolution = memory.resolution
        if not memory.whole:
            packet = _packet(np.concatenate([start, expected], axis=1), memory.resolution)
            resolution = packet / 2
            errors.append((error[np.broadcast_to(valid, error.shape)] / packet) ** 2)
        differs = np.abs(error) > resolution
        equal += int((valid & ~differs).sum())
        samples += int(np.broadcast_to(valid, found.shape).sum())
        candidate = circuit.candidates[layer]
        up, down = _thresholds(design, layer, circuit)
        decision = np.where(candidate >= up, 1, np.where(candidate < down, -1, 0))
        as_decided = np.ones_like(differs)
        if memory.whole:
            as_decided = memory.step(np.concatenate([start, found[:, :-1]], axis=1), decision) == found
        before = np.concatenate([np.zeros_like(error[:, :1]), error[:, :-1]], axis=1)
        kept = (error * before > 0) & (np.abs(error) <= np.abs(before) + resolution / 2) & as_decided
        inherited = (kept & ((decision == 0) | memory.counts)) | upstream[..., None]
        distance = np.minimum(np.abs(candidate - up), np.abs(candidate - down))
        for b, t, i in np.argwhere(differs):
            kind: Kind = "dynamic"
            if inherited[b, t, i]:
                kind = "inherited"
            elif as_decided[b, t, i]:
                kind = "static"
            disagreements.append(Disagreement(int(b), int(t), layer, int(i), kind, float(distance[b, t, i])))
        upstream |= differs.any(-1)
    kinds: dict[Kind, int] = {"static": 0, "dynamic": 0, "inherited": 0}
    for disagreement in disagreements:
        kinds[disagreement.kind] += 1
    decisions = int((reference.decision == circuit.decision).sum())
    error = (circuit.logits - reference.logits)[~np.isnan(circuit.logits)]
    scale = design.facts.unit_current * design.facts.logit_scale
    return Agreement(
        inputs=len(circuit.decision),
        decisions=decisions,
        decision_fraction=decisions / len(circuit.decision),
        states=equal,
        samples=samples,
        state_fraction=equal / samples,
        logit_error_a=float(np.sqrt(np.mean(error**2)) * scale),
        state_error_packets=float(np.sqrt(np.concatenate(errors).mean())) if errors else None,
        kinds=kinds,
        disagreements=disagreements,
    )


def _packet(states: Array, resolution: float) -> float:
    """Mean change of states [B, T, N] where they move."""
    moved = np.abs(np.diff(states, axis=1))
    moved = moved[moved > resolution]
    return float(moved.mean()) if moved.size else resolution


def _thresholds(design: Design, layer: int, circuit: Result) -> tuple[Array, Array]:
    """Upper and lower threshold (A), of the circuit's own rows where they follow the input."""
    if layer in circuit.thresholds:
        return circuit.thresholds[layer], -circuit.thresholds[layer]
    return design.thresholds(layer, {})


def select(outcome: Outcome, inputs: list[int]) -> Trained:
    """Some of the inputs of an outcome."""
    return Trained(
        outcome.logits[inputs], outcome.decision[inputs], [states[inputs] for states in outcome.states]
    )
