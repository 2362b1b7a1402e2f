"""What mismatch makes of a network's numbers: every transistor of its circuit drawn, differentiable in torch.

A weight w read from a row with U unit transistors for a weight of 1 is k = round(w U) transistors in parallel
(straight-through). Each transistor's current is off by exp(s z), z normal, with Pelgrom's relative sigma

    s = sqrt((A_VT / (n U_T))^2 + A_beta^2) / sqrt(W L M)

of its polarity and area. A weight is off by its own transistors, by the diode of its source, which all that
read the source share, and by the source's copy if it needs the other polarity; a bias by its reference; the
cells by transistors of their own. This is what `variation.draw` and the stages' `currents` make of a design,
without the circuit's systematic errors: with z = 0 a chip is the network itself, in whole units.
Sources: M. Pelgrom et al., IEEE JSSC 24(5), 1989; straight-through, Y. Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmru_hw.technology import Polarity, Technology
from cmru_hw.training.circuit import Circuit, Planned, Sums

Columns = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """What sigmas follow from, as tensors that gradients may reach.

    `area` is W L of the unit transistor over the technology's and `latch` the units of a latch's or
    comparator's currents over its number; `diode` [rows] unit transistors in the diodes of
    each row of the circuit, `weight` [rows] those on their gates that make a weight of 1, `bias` those of a
    bias and of its reference.
    """

    area: Tensor
    diode: Tensor
    weight: Tensor
    bias: Tensor
    latch: Tensor

    @classmethod
    def planned(cls, circuit: Circuit, planned: Planned, like: Tensor) -> Sizes:
        """As mapping plans them; dtype and device of `like`."""
        rows = circuit.rows.values()
        return cls(
            area=like.new_tensor(1.0),
            diode=like.new_tensor([float(row.diode) for row in rows]),
            weight=like.new_tensor([float(row.weight) for row in rows]),
            bias=like.new_tensor(float(planned.bias_units)),
            latch=like.new_tensor(1.0),
        )

    def detached(self) -> Sizes:
        """The same, which no gradient reaches."""
        return Sizes(**{each.name: getattr(self, each.name).detach() for each in fields(self)})


class Process(NamedTuple):
    """Of a technology at a temperature: relative sigma of 1 um^2 by polarity, and the nMOS slope factor."""

    n: float
    p: float
    slope: float

    @classmethod
    def of(cls, technology: Technology) -> Process:
        """The mismatch of a card at its temperature."""

        def sigma(polarity: Polarity) -> float:
            volts = technology.slope_factor.of(polarity) * technology.thermal_voltage
            threshold = 1e-3 * technology.a_vt_mv_um.of(polarity) / volts
            return math.hypot(threshold, 1e-2 * technology.a_beta_percent_um.of(polarity))

        return cls(sigma("n"), sigma("p"), technology.slope_factor.n)


@dataclass(frozen=True)
class Chips:
    """One draw, with a leading axis for its chips. Values are in model units, logarithms natural.

    `gains` [chips, rows x out, sources x in] of a matrix, [chips, sources, size] of a 1:1 sum, and `bias`
    [chips, rows x out], both signed and by the first row of the sum; `native` [chips, size], by row, log gain
    of transistors of its polarity on its gates; `parts` [chips, ...] log strengths of the cells' transistors.
    """

    gains: dict[str, Tensor]
    bias: dict[str, Tensor]
    native: dict[str, Tensor]
    parts: dict[str, Tensor]
    process: Process


class Mismatch:
    """Draws the chips of a circuit; `count` normal deviates make one. `columns` says whose each of them is.

    Its names are `{row}.from_{source}` [out, in] ([size] where 1:1), `{row}.bias` [out] (of the bias and its
    reference together), `{row}.diode`, `{row}.copy`, `{row}.copy_diode` [size], and those of the cells.
    """

    def __init__(
        self, circuit: Circuit, shapes: Mapping[str, tuple[int, ...]], technology: Technology, like: Tensor
    ) -> None:
        """`shapes` are those of the parameters; deviates are to have dtype and device of `like`."""
        self.circuit, self.columns = circuit, dict[str, Columns]()
        self._unit_um2 = technology.unit.w_um * technology.unit.l_um
        self._rows = list(circuit.rows)
        self._diodes, self._size = dict[str, slice](), 0
        for name, row in circuit.rows.items():
            self._diodes[name] = slice(self._size, self._size + row.size)
            self._size += row.size
        self._with_matrix = [sums for sums in circuit.sums.values() if sums.tensor is not None]
        starts, at = [1], 1  # of each weight among all of them, which stand behind a 1
        for sums in self._with_matrix[:-1]:
            at += math.prod(shapes[f"{sums.tensor}.weight"])
            starts.append(at)
        self.weights = at + math.prod(shapes[f"{self._with_matrix[-1].tensor}.weight"]) - 1
        first = {sums.rows[0]: start for sums, start in zip(self._with_matrix, starts, strict=True)}
        self._shapes, self._widths, gains, biases = {}, {}, [], []
        for name, sums in circuit.sums.items():
            shape = shapes[f"{sums.tensor}.weight"] if sums.tensor else None
            gains.append(self._contributions(sums, shape, first.get(name, 0)))
            self._shapes[name] = gains[-1]["index"].shape
        outs = 0
        for sums in self._with_matrix:
            (out,) = shapes[f"{sums.tensor}.bias"]
            biases.append(self._references(sums, out, outs))
            self._widths[sums.rows[0]] = biases[-1]["index"].size
            outs += out

        def joined(found: list[dict[str, Any]]) -> dict[str, Tensor]:
            arrays = {key: np.concatenate([one[key].ravel() for one in found]) for key in found[0]}
            tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
            return {k: v.to(like) if v.is_floating_point() else v.to(like.device) for k, v in tensors.items()}

        self._gain, self._bias = joined(gains), joined(biases)
        numbers = [circuit.rows[name].size for name in self._rows]
        self._diode = joined(
            [
                {"row": np.full(n, k), "is_p": np.full(n, circuit.rows[name].polarity == "p")}
                for k, (name, n) in enumerate(zip(self._rows, numbers, strict=True))
            ]
        )
        self._part = joined(
            [
                {
                    "area": np.full(part.shape, part.area_um2),
                    "sized": np.full(part.shape, float(part.sized)),
                    "cell": np.full(part.shape, float(part.cell)),
                    "is_p": np.full(part.shape, part.polarity == "p"),
                }
                for part in circuit.parts
            ]
        )  # fmt: skip
        self._name_columns(shapes)

    def draw(
        self,
        parameters: Mapping[str, Tensor],
        offsets: Mapping[str, Tensor],
        deviates: Tensor,
        sizes: Sizes,
        process: Process,
        dither: Tensor | None = None,
    ) -> Chips:
        """The chips of `deviates` [chips, count], normal and times what sigmas are to be multiplied with.

        `parameters` are the network's, by name. `offsets` are currents that a source carries for a value of
        0, by the tensor that reads it, in model units: the biases take them off. `dither` [weights], within
        -0.5 and 0.5, stands for the rounding of each weight to whole units, whose size gradients then reach;
        without it weights are rounded.
        """
        own, referred, diodes, cells = deviates.split(self._sections, dim=1)
        unit_um2 = self._unit_um2 * sizes.area

        # Diodes and their copies: what a unit transistor of either polarity on their gates carries.
        sigma = (unit_um2 * sizes.diode)[self._diode["row"]].rsqrt()
        same, other = (sigma * _relative(one, process) for one in (self._diode["is_p"], ~self._diode["is_p"]))
        of_diode, of_copy, of_copy_diode = diodes.split(self._size, dim=1)
        native = -of_diode * same
        copied = native + of_copy * same - of_copy_diode * other

        # Weights: transistors whose polarity follows the sign.
        gain = self._gain
        values = [parameters[f"{sums.tensor}.weight"].flatten() for sums in self._with_matrix]
        a_weight = sizes.weight[gain["row"]]  # 1:1 sums take as many units as the diode has
        a_weight = torch.where(gain["mirror"], sizes.diode[gain["row"]], a_weight)
        weight = torch.cat([values[0].new_ones(1), *values])[gain["index"]]
        if dither is not None:
            weight = weight + torch.cat([dither.new_zeros(1), dither])[gain["index"]] / a_weight
        weight = weight * gain["sign"]
        weight = torch.where(gain["split"], weight.relu(), weight)
        if dither is None:
            weight = weight + (torch.round(weight * a_weight) / a_weight - weight).detach()
        is_p = (weight > 0) != gain["row_is_p"]
        sigma = (unit_um2 * (weight.abs() * a_weight).clamp(min=1)).rsqrt() * _relative(is_p, process)
        source = gain["source"] + torch.where(is_p == gain["source_is_p"], 0, self._size)
        gains = weight * (own * sigma + torch.cat([native, copied], dim=1)[:, source]).exp()

        # Biases: the transistor and its reference are of one size and polarity.
        bias, nominal = self._bias, self._by_sum(weight[None])
        found = []
        for sums in self._with_matrix:
            value = parameters[f"{sums.tensor}.bias"]
            if (offset := offsets.get(sums.tensor or "")) is not None:
                value = value - nominal[sums.rows[0]][0] @ offset
            found.append(value)
        current = torch.cat(found)[bias["index"]] * bias["sign"]
        current = torch.where(bias["split"], current.relu(), current)
        sigma = (unit_um2 * sizes.bias / 2).rsqrt() * _relative((current > 0) != bias["row_is_p"], process)
        currents = (current * (referred * sigma).exp()).split(list(self._widths.values()), dim=1)

        area = self._part["area"] * (1 + self._part["sized"] * (sizes.area - 1))
        area = area * (1 + self._part["cell"] * (sizes.latch - 1))
        strengths = cells * area.rsqrt() * _relative(self._part["is_p"], process)
        parts = strengths.split([math.prod(part.shape) for part in self.circuit.parts], dim=1)
        return Chips(
            gains=self._by_sum(gains),
            bias=dict(zip(self._widths, currents, strict=True)),
            native={name: native[:, one] for name, one in self._diodes.items()},
            parts={
                part.name: one.view(-1, *part.shape)
                for part, one in zip(self.circuit.parts, parts, strict=True)
            },
            process=process,
        )

    def _by_sum(self, flat: Tensor) -> dict[str, Tensor]:
        """[chips, all contributions] in parts."""
        each = flat.split([math.prod(shape) for shape in self._shapes.values()], dim=1)
        return {
            name: one.view(-1, *shape) for (name, shape), one in zip(self._shapes.items(), each, strict=True)
        }

    def _contributions(self, sums: Sums, shape: tuple[int, ...] | None, first: int) -> dict[str, Any]:
        """Of every transistor of a sum, [rows x out, sources x in], or [sources, size] where 1:1."""
        rows = self.circuit.rows

        def block(row: str, source: str, sign: int) -> dict[str, Any]:
            size = rows[source].size
            elements = np.arange(size) if shape is None else np.broadcast_to(np.arange(size), shape)
            index = np.zeros(size, int) if shape is None else np.arange(math.prod(shape)).reshape(shape)
            found = {
                "index": index + first, "sign": float(sign), "split": sums.split, "mirror": shape is None,
                "row": self._rows.index(source), "source": elements + self._diodes[source].start,
                "row_is_p": rows[row].polarity == "p", "source_is_p": rows[source].polarity == "p",
            }  # fmt: skip
            return {key: np.broadcast_to(np.asarray(value), index.shape) for key, value in found.items()}

        blocks = [
            [block(row, source, sign) for source, sign in zip(sums.sources, signs, strict=True)]
            for row, signs in zip(sums.rows, sums.signs, strict=True)
        ]
        if shape is None:
            return {key: np.stack([one[key] for one in blocks[0]]) for key in blocks[0][0]}
        return {key: np.block([[one[key] for one in line] for line in blocks]) for key in blocks[0][0]}

    def _references(self, sums: Sums, out: int, first: int) -> dict[str, Any]:
        """Of every bias of a sum, [rows x out]; the second row takes it with the other sign."""
        signs = np.repeat([1.0, -1.0][: len(sums.rows)], out)
        is_p = np.repeat([self.circuit.rows[row].polarity == "p" for row in sums.rows], out)
        return {
            "index": np.tile(first + np.arange(out), len(sums.rows)), "sign": signs, "row_is_p": is_p,
            "split": np.full(len(signs), sums.split),
        }  # fmt: skip

    def _name_columns(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        at = 0
        for name, sums in self.circuit.sums.items():
            shape = self._shapes[name]
            all_of = at + np.arange(math.prod(shape)).reshape(shape)
            at += all_of.size
            if sums.tensor is None:
                for source, line in zip(sums.sources, all_of, strict=True):
                    self.columns[f"{name}.from_{source}"] = line
                continue
            for row, lines in zip(sums.rows, np.split(all_of, len(sums.rows)), strict=True):
                for source, own in zip(sums.sources, np.split(lines, len(sums.sources), axis=1), strict=True):
                    self.columns[f"{row}.from_{source}"] = own
        self._sections = [at]
        for sums in self._with_matrix:
            for row in sums.rows:
                (out,) = shapes[f"{sums.tensor}.bias"]
                self.columns[f"{row}.bias"] = at + np.arange(out)
                at += out
        self._sections.append(at - self._sections[0])
        for k, part in enumerate(("diode", "copy", "copy_diode")):
            for name, one in self._diodes.items():
                first = at + k * self._size + one.start
                self.columns[f"{name}.{part}"] = np.arange(first, first + one.stop - one.start)
        at += 3 * self._size
        self._sections.append(3 * self._size)
        last = at
        for cell in self.circuit.parts:
            self.columns[cell.name] = at + np.arange(math.prod(cell.shape)).reshape(cell.shape)
            at += math.prod(cell.shape)
        self._sections.append(at - last)
        self.count = at


def _relative(is_p: Tensor, process: Process) -> Tensor:
    return torch.where(is_p, process.p, process.n)
