"""The stability study in a tiny form, and the gradients that it measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmru_hw.farm import Farm
from cmru_hw.nn import Network, NetworkConfig
from cmru_hw.studies.stability import Gradient, Stability, gradient_norms
from cmru_hw.studies.study import run_study
from cmru_hw.studies.trial import Trial
from cmru_hw.studies.variants import PUBLISHED
from cmru_hw.training import TrainingConfig
from cmru_hw.training.tasks import CopyFirstInput

TASK = CopyFirstInput(length=6, classes=2, train_size=64, test_size=64, validation_fraction=0.25)


def test_tiny(tmp_path: Path) -> None:
    study = Stability(
        units=("bmru", "annealed_bmru", "cmru"), tasks=(TASK,), followed=("cmru",),
        published=("published_bmru",), seeds=3, grid_seeds=1, steps=150, hold=20, anneal=40, size=4,
        batch_size=16, rate=1e-2, rates=(1e-2, 2e-2), scales=(1.0, 3.0), evaluate_every=50,
    )  # fmt: skip
    record = run_study(study, tmp_path, Farm(workers=1))
    by_rate = record["runs"]["copy_first_input"]["cmru"]
    cmru = by_rate["0.01"]
    assert [cmru[scale]["runs"] for scale in ("1", "3")] == [3, 3]
    assert [by_rate["0.02"][scale]["runs"] for scale in ("1", "3")] == [3, 1]
    assert record["runs"]["copy_first_input"]["bmru"]["0.01"]["3"]["runs"] == 1
    assert cmru["1"]["solved"] == sum(accuracy >= 0.95 for accuracy in cmru["1"]["accuracies"]) > 0
    assert list(record["gradients"]) == ["1", "3", "6"]
    assert all(len(lines["CMRU"]) == 6 for lines in record["gradients"].values())
    assert all(list(shares) == ["bmru", "cmru", "published_bmru"] for shares in record["events"].values())
    published = record["runs"]["copy_first_input"]["published_bmru"]
    assert {rate: list(by) for rate, by in published.items()} == {"0.01": ["1"]}
    assert published["0.01"]["1"]["runs"] == 3
    head, rows = study.rows(record)
    assert [row[0] for row in rows] == ["BMRU", "BMRU, annealed", "CMRU"]
    assert all(len(row) == len(head) for row in rows)
    for name in ("grid", "accuracy", "gradient"):
        assert (tmp_path / f"stability_{name}.svg").stat().st_size > 3000


def test_events_are_counted_as_published() -> None:
    """|W_c x + b_c| >= |W_b x + b_b|, in all frames but the first."""
    section = PUBLISHED["published_bmru"].section(5, pool="last", skip=False)
    trial = Trial(section, TASK, TrainingConfig(steps=1), init_scale=6.0)
    weights = {name: value.numpy() for name, value in trial.build().state_dict().items()}
    x = trial.load_task().test.x @ weights["projection.weight"].T + weights["projection.bias"]
    c, beta = (
        x @ weights[f"layers.0.unit.{name}.weight"].T + weights[f"layers.0.unit.{name}.bias"]
        for name in ("candidate", "threshold")
    )
    counted = (np.abs(c) >= np.abs(beta))[:, 1:].mean()
    assert counted > 0
    assert Gradient(trial, 0.0).run()["events"] == counted


def test_gradients_are_those_of_each_sequence_alone() -> None:
    torch.manual_seed(0)
    network = Network(
        NetworkConfig(
            unit="min_gru",
            input_size=3,
            model_size=4,
            hidden_size=5,
            num_layers=1,
            num_classes=2,
            pool="last",
        )
    )
    x, y = torch.randn(2, 7, 3), torch.tensor([0, 1])
    each = []
    for number in range(2):
        inner = network.projection(x[number : number + 1]).detach().requires_grad_()
        after, _, _ = network.layers[0](inner)
        torch.nn.functional.cross_entropy(network.readout(after)[:, -1], y[number : number + 1]).backward()
        assert inner.grad is not None
        each.append(inner.grad[0].norm(dim=1).numpy())
    np.testing.assert_allclose(gradient_norms(network, x, y).numpy(), np.mean(each, axis=0), rtol=1e-5)


def test_an_event_blocks_the_gradient_of_a_bmru_and_not_of_a_cmru() -> None:
    """One unit, an event in frame 3 of 6: what is before it does not reach the end in a BMRU."""

    def norms(unit: str) -> np.ndarray:
        network = Network(
            NetworkConfig(
                unit=unit, input_size=1, model_size=1, hidden_size=1, num_layers=1, num_classes=2,
                pool="last", skip=False,
            )
        )  # fmt: skip
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            network.readout.weight[1] = -1.0
        x = torch.full((1, 6, 1), 0.2)
        x[0, 0] = 1.5
        x[0, 3] = 2.0
        x[0, 4:] = -0.2  # an event against the state would change it
        return gradient_norms(network, x, torch.tensor([0])).numpy()

    blocked, passed = norms("bmru"), norms("cmru")
    assert (blocked[:3] == 0).all()
    assert (blocked[3:] > 0).all()
    assert (passed > 0).all()
