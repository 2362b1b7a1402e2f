"""How far the three models of one network agree: trained, behavioural, SPICE."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cmru_hw.behavioral import BehavioralModel
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
    def states(self) -> list[NDArray[np.int8]]: ...


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained network's outcome."""

    logits: Array
    decision: NDArray[np.int64]
    states: list[NDArray[np.int8]]


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
    """Of two models over the same inputs. `states` are samples at frame ends; `logit_error_a` is rms, A."""

    inputs: int
    decisions: int  # equal ones
    decision_fraction: float
    states: int  # equal samples
    samples: int
    state_fraction: float
    logit_error_a: float
    kinds: dict[Kind, int]
    disagreements: list[Disagreement]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_trained(network: Network, stimulus: Stimulus) -> Trained:
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
        states=[np.where(past, -1, states.numpy()).astype(np.int8) for states in trace["states"]],
    )


def agreement(design: Design, reference: Outcome, circuit: Result) -> Agreement:
    """Compare a circuit model (behavioural or SPICE) with a reference over the same inputs."""
    thresholds = BehavioralModel(design).thresholds()
    disagreements: list[Disagreement] = []
    equal = samples = 0
    upstream = np.zeros(circuit.states[0].shape[:2], dtype=bool)
    for layer, (expected, found) in enumerate(zip(reference.states, circuit.states, strict=True)):
        valid = found >= 0
        differs = (expected != found) & valid
        equal += int((valid & ~differs).sum())
        samples += int(valid.sum())
        up, down = thresholds[layer]
        candidate = circuit.candidates[layer]
        initial = np.broadcast_to(design.latches[layer].initial_state, found[:, :1].shape)
        before = np.concatenate([initial, found[:, :-1]], axis=1)
        settled = np.where(candidate >= up, 1, np.where(candidate < down, 0, before))
        held = np.zeros_like(differs)
        held[:, 1:] = differs[:, :-1] & (found[:, 1:] == found[:, :-1])
        within = (candidate >= down) & (candidate < up)
        inherited = (held & within) | upstream[..., None]
        for b, t, i in np.argwhere(differs):
            kind: Kind = "dynamic"
            if inherited[b, t, i]:
                kind = "inherited"
            elif settled[b, t, i] == found[b, t, i]:
                kind = "static"
            margin = min(abs(candidate[b, t, i] - up[i]), abs(candidate[b, t, i] - down[i]))
            disagreements.append(Disagreement(int(b), int(t), layer, int(i), kind, float(margin)))
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
        kinds=kinds,
        disagreements=disagreements,
    )


def select(outcome: Outcome, inputs: list[int]) -> Trained:
    """Some of the inputs of an outcome."""
    return Trained(
        outcome.logits[inputs], outcome.decision[inputs], [states[inputs] for states in outcome.states]
    )
