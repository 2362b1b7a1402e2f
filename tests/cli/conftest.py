"""Running the command in this process, and files to run it on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_files import Command, Done, imported_network

from cmru_hw.cli import main
from cmru_hw.nn.network import save_network


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`command("map", folder, ...)` as a person would type it."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cmru-hw", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        shown = capsys.readouterr()
        return Done(int(caught.value.code or 0), shown.out, shown.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with network.yaml and weights.safetensors."""
    save_network(imported_network(), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def x(tmp_path: Path) -> Path:
    """x [2, 8, 13]."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).normal(0, 1, (2, 8, 13)))
    return path


@pytest.fixture
def design(weights: Path, tmp_path: Path, command: Command) -> Path:
    """The network mapped by the command."""
    assert command("map", weights, "-o", tmp_path / "design").code == 0
    return tmp_path / "design"
