"""The linear scan, forward and backward, against JAX; prints one JSON object.

    pip install jax
    python benchmarks/scan.py [--shapes 64,784,64 64,128,64]

s_t = a_t s_{t-1} + b_t in float32 with gradients to a and b: `linear_scan`, `jax.lax.scan` and
`jax.lax.associative_scan` (both jitted), and the time that moving the eight arrays involved takes at the
bandwidth of a copy, each in turn `--rounds` times, twice a turn, of which the second counts: the threads of
the one before spin on for a while. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch

from cmru_hw import __version__
from cmru_hw.nn.scan import linear_scan

SHAPES = ["64,784,64", "64,128,64", "16,4096,128", "8,256,64", "8,1024,64", "8,4096,64", "8,16384,64"]
ARRAYS = 8  # read a, b and write s; read a, s, ds and write da, db


def ours(a: np.ndarray, b: np.ndarray, g: np.ndarray) -> Callable[[], object]:
    """A forward and a backward pass in torch."""
    at, bt = (torch.from_numpy(x).requires_grad_() for x in (a, b))
    s0, gt = torch.zeros(a.shape[0], a.shape[2]), torch.from_numpy(g)

    def run() -> object:
        return torch.autograd.grad(linear_scan(at, bt, s0), (at, bt), gt)

    return run


def theirs(a: np.ndarray, b: np.ndarray, g: np.ndarray, associative: bool) -> Callable[[], object]:
    """The same in JAX."""
    arrays = [jnp.asarray(x) for x in (a, b, g)]

    def scan(a: jax.Array, b: jax.Array) -> jax.Array:
        if associative:
            joined = jax.lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), axis=1)
            return joined[1]
        step = lambda s, ab: ((new := ab[0] * s + ab[1]), new)  # noqa: E731
        first = jnp.zeros_like(a[:, 0])
        return jnp.swapaxes(
            jax.lax.scan(step, first, (jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)))[1], 0, 1
        )

    grad = jax.jit(jax.grad(lambda a, b, g: jnp.vdot(scan(a, b), g), argnums=(0, 1)))
    return lambda: jax.block_until_ready(grad(*arrays))


def copying(size: int) -> Callable[[], object]:
    """Copies that move as many bytes as the arrays of a scan."""
    source, target = np.ones((ARRAYS // 2, size), np.float32), np.zeros((ARRAYS // 2, size), np.float32)
    s, t = torch.from_numpy(source), torch.from_numpy(target)
    return lambda: t.copy_(s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    rows = []
    for text in given.shapes:
        shape = tuple(map(int, text.split(",")))
        random = np.random.default_rng(0)
        a = random.uniform(0.8, 1.0, shape).astype(np.float32)
        b, g = (random.normal(0, 1, shape).astype(np.float32) for _ in range(2))
        ways = {
            "linear_scan": ours(a, b, g),
            "lax_scan": theirs(a, b, g, associative=False),
            "associative_scan": theirs(a, b, g, associative=True),
            "memory": copying(a.size),
        }
        expected = [np.asarray(x) for x in ways["lax_scan"]()]  # type: ignore[attr-defined]
        found = [x.numpy() for x in ways["linear_scan"]()]  # type: ignore[attr-defined]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.rounds + 1):
            for name, run in ways.items():
                run()
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
        middle = {name: statistics.median(each[1:]) for name, each in times.items()}  # the first compiles
        rows.append(
            {
                "shape": shape,
                "milliseconds": {name: 1e3 * seconds for name, seconds in middle.items()},
                "over_memory_bound": middle["linear_scan"] / middle["memory"],
                "faster_than_lax_scan": middle["lax_scan"] / middle["linear_scan"],
                "faster_than_associative_scan": middle["associative_scan"] / middle["linear_scan"],
            }
        )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "jax": jax.__version__,
        "cmru_hw": __version__,
    }
    print(json.dumps({"rows": rows, "machine": machine}, indent=1))


if __name__ == "__main__":
    main()
