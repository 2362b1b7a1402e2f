"""Rebuild `japanese_vowels.npz` from the text files that the PyPI package `aeon` carries.

    pip download --no-deps --dest /tmp/aeon aeon==1.6.0
    python models/data/make_japanese_vowels.py /tmp/aeon/aeon-1.6.0-py3-none-any.whl

The archive keeps the values as published (no scaling), padded with zeros behind the last frame:
`x [640, 29, 12]` float32, `lengths [640]` int64, `y [640]` int64 (speaker 1 is 0) and `split [640]`
uint8 (0 train, 1 test), in the order of the original files.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

FOLDER = "aeon/datasets/data/JapaneseVowels"


def read_ts(text: str) -> tuple[list[np.ndarray], list[int]]:
    """The utterances [frames, 12] and zero-based speakers of one `.ts` file."""
    _, _, data = text.partition("@data")
    utterances, speakers = [], []
    for line in data.strip().splitlines():
        *channels, label = line.split(":")
        values = [[float(value) for value in channel.split(",")] for channel in channels]
        utterances.append(np.array(values, dtype=np.float32).T)
        speakers.append(int(label) - 1)
    return utterances, speakers


def main(wheel: Path) -> None:
    utterances: list[np.ndarray] = []
    speakers: list[int] = []
    split: list[int] = []
    with zipfile.ZipFile(wheel) as archive:
        for index, part in enumerate(("TRAIN", "TEST")):
            xs, ys = read_ts(archive.read(f"{FOLDER}/JapaneseVowels_{part}.ts").decode("utf-8"))
            utterances += xs
            speakers += ys
            split += [index] * len(ys)
    lengths = np.array([len(frames) for frames in utterances], dtype=np.int64)
    x = np.zeros((len(utterances), int(lengths.max()), 12), dtype=np.float32)
    for row, frames in zip(x, utterances, strict=True):
        row[: len(frames)] = frames
    np.savez_compressed(
        Path(__file__).with_name("japanese_vowels.npz"),
        x=x,
        lengths=lengths,
        y=np.array(speakers, dtype=np.int64),
        split=np.array(split, dtype=np.uint8),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
