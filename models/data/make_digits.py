"""Rebuild `digits.npz` from the table that the PyPI package `scikit-learn` carries.

    pip download --no-deps --dest /tmp/sklearn scikit-learn==1.9.1
    python models/data/make_digits.py /tmp/sklearn/scikit_learn-1.9.1-*.whl

The archive keeps the values as published: `images [1797, 8, 8]` uint8 (0 to 16), `y [1797]` int64 (the
digit) and `split [1797]` uint8 (0 train, 1 test): the first 1297 images train, the last 500 test. The order
is that of the original file.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

TABLE = "sklearn/datasets/data/digits.csv.gz"
TRAIN = 1297


def main(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(TABLE)).decode("ascii")
    rows = np.array([line.split(",") for line in text.split()], dtype=np.int64)
    np.savez_compressed(
        Path(__file__).with_name("digits.npz"),
        images=rows[:, :64].reshape(-1, 8, 8).astype(np.uint8),
        y=rows[:, 64],
        split=(np.arange(len(rows)) >= TRAIN).astype(np.uint8),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
