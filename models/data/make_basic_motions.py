"""Rebuild `basic_motions.npz` from the text files that the PyPI package `aeon` carries.

    pip download --no-deps --dest /tmp/aeon aeon==1.6.0
    python models/data/make_basic_motions.py /tmp/aeon/aeon-1.6.0-py3-none-any.whl

The archive keeps the values as published (no scaling): `x [80, 100, 6]` float32, `lengths [80]` int64 (all
100), `y [80]` int64 (0 standing, 1 running, 2 walking, 3 badminton) and `split [80]` uint8 (0 train,
1 test), in the order of the original files.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

FOLDER = "aeon/datasets/data/BasicMotions"
CLASSES = ("Standing", "Running", "Walking", "Badminton")


def read_ts(text: str) -> tuple[np.ndarray, list[int]]:
    """The recordings [B, 100, 6] and classes of one `.ts` file."""
    _, _, data = text.partition("@data")
    recordings, classes = [], []
    for line in data.strip().splitlines():
        *channels, label = line.strip().split(":")
        recordings.append(np.array([channel.split(",") for channel in channels], dtype=np.float32).T)
        classes.append(CLASSES.index(label))
    return np.stack(recordings), classes


def main(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        parts = [
            read_ts(archive.read(f"{FOLDER}/BasicMotions_{part}.ts").decode("utf-8"))
            for part in ("TRAIN", "TEST")
        ]
    x = np.concatenate([recordings for recordings, _ in parts])
    np.savez_compressed(
        Path(__file__).with_name("basic_motions.npz"),
        x=x,
        lengths=np.full(len(x), x.shape[1], dtype=np.int64),
        y=np.array([label for _, classes in parts for label in classes], dtype=np.int64),
        split=np.repeat(np.array([0, 1], dtype=np.uint8), [len(classes) for _, classes in parts]),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
