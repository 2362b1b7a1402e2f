"""One file that holds everything a stopped training run needs to go on exactly where it was.

`checkpoint.safetensors`: the tensors, and a JSON record in the file's own header, so both are always of
the same step. No pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError, TrainingError

Record = dict[str, Any]
RECORD_KEYS = {"run", "step", "ends", "stale", "best", "history", "losses", "hits", "seconds"}


def save_checkpoint(path: Path, tensors: dict[str, Tensor], record: Record) -> None:
    """Write tensors and record as one file, replacing the old one in one step."""
    header = {"record": json.dumps(record, allow_nan=False)}
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(contiguous, metadata=header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Record]:
    """Tensors and record; raises ConfigError naming the file if it is damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            record: Record = json.loads(file.metadata()["record"])
            if not record.keys() >= RECORD_KEYS:
                raise ValueError(f"its record lacks {sorted(RECORD_KEYS - record.keys())}")
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a complete checkpoint ({error}); delete it to start again") from error
    return tensors, record


def refuse_other_run(path: Path, saved: Record, current: Record) -> None:
    """Raise TrainingError naming the first field in which the checkpoint's run differs from this one."""
    for field in sorted(saved.keys() | current.keys()):
        before, now = saved.get(field), current.get(field)
        if isinstance(before, dict) and isinstance(now, dict):
            refuse_other_run(path, _prefixed(field, before), _prefixed(field, now))
        elif before != now:
            raise TrainingError(
                f"{path}: made with {field} = {before!r}, now {now!r}; use another folder or do not resume"
            )


def _prefixed(field: str, content: Record) -> Record:
    return {f"{field}.{key}": value for key, value in content.items()}


def optimizer_tensors(optimizer: Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimiser's state as `optimizer/KEY/PARAMETER`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{key}/{names[index]}": value
        for index, entry in state.items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizer: Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` wrote."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, key, parameter = name.split("/", 2)
            state.setdefault(names.index(parameter), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
