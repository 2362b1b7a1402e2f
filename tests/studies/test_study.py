"""The frame of every study: a trial follows from itself, and a stopped study goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm
from cmru_hw.nn import Network, NetworkConfig
from cmru_hw.nn.sizing import count_parameters, sized
from cmru_hw.studies import study as studies
from cmru_hw.studies.study import Measurement, Record, Study, reckon, run_study
from cmru_hw.studies.trial import Trial, run_trial
from cmru_hw.training import TaskConfig, TrainingConfig

TINY = Trial(
    network={"unit": "cmru", "model_size": 4, "hidden_size": 4, "num_layers": 1, "pool": "last"},
    task=TaskConfig(
        name="copy_first_input", length=6, classes=2, train_size=64, test_size=32, validation_fraction=0.25
    ),
    training=TrainingConfig(steps=20, batch_size=16, evaluate_every=10, learning_rate=1e-2),
)


@dataclass(frozen=True)
class Norm:
    """The norm of a weight of a trained network."""

    trial: Trial
    result: Arrays

    def run(self) -> Arrays:
        return {"norm": self.trial.trained(self.result).readout.weight.detach().norm().numpy()}


class Seeds(Study):
    name = "seeds"

    def __init__(self, seeds: int = 2) -> None:
        self.seeds = seeds

    @classmethod
    def quick(cls) -> Seeds:
        return cls(1)

    def trials(self) -> dict[str, Trial]:
        return {
            f"seed{seed}": replace(TINY, training=TINY.training.model_copy(update={"seed": seed}))
            for seed in range(self.seeds)
        }

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        return {f"norm_{key}": Norm(trial, trained[key]) for key, trial in self.trials().items()}

    def summarise(self, results: Mapping[str, Arrays]) -> Record:
        return {"norms": [float(one["norm"]) for key, one in results.items() if key.startswith("norm")]}

    def figures(self, record: Record) -> dict[str, Figure]:
        return {"norms": Figure()}

    def rows(self, record: Record) -> tuple[list[str], list[list[str]]]:
        return ["norm"], [[f"{norm:.2f}"] for norm in record["norms"]]


def without_time(result: Arrays) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "seconds"}


def test_a_trial_follows_from_itself() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run_trial(None, TINY)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = run_trial(None, TINY)
    np.testing.assert_equal(without_time(first), without_time(second))
    assert first["steps"].tolist() == [10, 20]
    other = run_trial(None, replace(TINY, training=TINY.training.model_copy(update={"seed": 1})))
    assert (other["network/projection.weight"] != first["network/projection.weight"]).any()


def test_the_trained_network_is_had_back() -> None:
    result = run_trial(None, TINY)
    network = TINY.trained(result)
    test = TINY.load_task().test
    with torch.no_grad():
        decided = network(torch.from_numpy(test.x)).argmax(1).numpy()
    assert np.mean(decided == test.y) == result["test_accuracy"]


def test_initial_matrices_are_scaled_and_nothing_else() -> None:
    plain, scaled = (replace(TINY, init_scale=scale).build().state_dict() for scale in (1.0, 0.5))
    for name, value in plain.items():
        assert torch.equal(scaled[name], value * (0.5 if value.dim() > 1 else 1.0)), name


def test_a_task_is_solved_from_where_it_stays_solved() -> None:
    result = run_trial(None, replace(TINY, training=TINY.training.model_copy(update={"steps": 200})))
    solved = result["validation_accuracy"] >= 0.95
    assert solved[-1]
    first = len(solved) - int(np.argmin(solved[::-1])) if not solved.all() else 0
    assert result["solved_after"] == result["steps"][first]


def test_a_study_goes_on_from_finished_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_study(Seeds(), tmp_path / "whole", Farm(workers=1))

    def stopped(context: None, trial: Trial) -> Arrays:
        if trial.training.seed:
            raise KeyboardInterrupt
        return run_trial(context, trial)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "run_trial", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_study(Seeds(), tmp_path / "parts", Farm(workers=1))
    assert reckon(Seeds(), tmp_path / "parts", steps=2).kept == 1
    kept = (tmp_path / "parts/jobs/seed0.safetensors").stat().st_mtime_ns
    assert run_study(Seeds(), tmp_path / "parts", Farm(workers=1)) == whole
    assert (tmp_path / "parts/jobs/seed0.safetensors").stat().st_mtime_ns == kept
    files = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert files == ["jobs", "norms.svg", "study.json"]
    assert json.loads((tmp_path / "parts/study.json").read_text()) == whole


def test_another_study_s_folder_is_refused(tmp_path: Path) -> None:
    run_study(Seeds(1), tmp_path, Farm(workers=1))
    with pytest.raises(ConfigError, match="holds results of trials"):
        run_study(Seeds(2), tmp_path, Farm(workers=1))


def test_an_impossible_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"trial: network: .*levels belongs to cmru only"):
        replace(TINY, network={**TINY.network, "unit": "lru", "levels": 2}).build()


@pytest.mark.parametrize("unit", ["fq_bmru", "bmru", "cmru", "alpha_cmru", "lru", "min_gru", "gru"])
def test_sizes_are_those_nearest_to_the_target(unit: str) -> None:
    config = sized(2000, 12, 9, {"unit": unit})
    found = count_parameters(config)
    assert found == Network(config).num_parameters()
    for size in (config.hidden_size - 1, config.hidden_size + 1):
        other = config.model_copy(update={"model_size": size, "hidden_size": size})
        assert abs(count_parameters(other) - 2000) >= abs(found - 2000)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match="wanted 5"):
        sized(5, 12, 9, {"unit": "cmru"})


def test_pieces_of_a_sequence_leave_the_same_logits() -> None:
    for unit in ("fq_bmru", "bmru", "cmru", "alpha_cmru", "lru", "min_gru", "gru"):
        torch.manual_seed(0)
        network = Network(
            NetworkConfig(
                unit=unit, input_size=3, model_size=6, hidden_size=5, num_layers=2, num_classes=4, pool="last"
            )
        ).eval()
        x = 3 * torch.randn(4, 50, 3)
        with torch.no_grad():
            whole, states = network(x), None
            for piece in x.split(7, dim=1):
                logits, states = network.resume(piece, states)
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
