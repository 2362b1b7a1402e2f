"""Rows of mirrors from scaled weights: whole unit transistors, bias currents and copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cmru_hw.design import Stage
from cmru_hw.errors import MappingError
from cmru_hw.mapping.config import MappingConfig
from cmru_hw.mapping.report import Clip, MappingReport
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array, Units
from cmru_hw.primitives.mirror import Input, Mirror, Term
from cmru_hw.primitives.signal import block_of
from cmru_hw.scaling import Weights, unit_counts
from cmru_hw.technology import Polarity, Technology


class Builder:
    """The stages so far, in signal order, and the report. `trained` are the weights before scaling, `units`
    those that make a weight of 1, by matrix.
    """

    def __init__(
        self,
        technology: Technology,
        choices: MappingConfig,
        units: Mapping[str, int],
        scaled: Weights,
        trained: Weights,
    ) -> None:
        self.technology, self.choices, self.units = technology, choices, units
        self.scaled, self.trained = scaled, trained
        self.report = MappingReport()
        self.clocks: list[BankClock] = []
        self._stages: list[Stage] = []
        self._diode_units: dict[str, int] = {}
        self._chosen: dict[str, list[str]] = {"rows": [], "bias_rows": []}

    def row_units(self, row: str, default: int | None = None) -> int:
        """Unit transistors in the diodes of a row; the mapping's `rows` may choose them."""
        self._chosen["rows"].append(row)
        return self.choices.row_units(row, self.choices.units if default is None else default)

    def add(self, stage: Stage) -> None:
        """Append a stage."""
        self._stages.append(stage)
        self._diode_units[stage.name] = stage.diode_units

    def finished(self) -> tuple[Stage, ...]:
        """The stages, each with the copies (of the other polarity) that later stages take from it.

        Raises MappingError for a choice of units of a row that there is not.
        """
        for key, rows in self._chosen.items():
            known = dict.fromkeys([*map(block_of, rows), *rows])
            if unknown := [row for row in getattr(self.choices, key) if row not in known]:
                raise MappingError(
                    f"mapping.{key}: {unknown[0]}: no row whose units can be chosen; there are "
                    f"{', '.join(known)}"
                )
        copied = {stage.name: stage.copied.copy() for stage in self._stages}
        polarity = {stage.name: stage.polarity for stage in self._stages}
        for stage in (stage for stage in self._stages if isinstance(stage, Mirror)):
            for term in stage.terms:
                for positive in (True, False):
                    if stage.transistor_polarity(positive) != polarity[term.source]:
                        taken = (term.units > 0 if positive else term.units < 0).any(axis=0)
                        copied[term.source] |= taken.astype(np.int64)
        return tuple(replace(stage, copied=copied[stage.name]) for stage in self._stages)

    def input(self, name: str, size: int, polarity: Polarity, diode_units: int) -> None:
        """A row of currents from outside."""
        self.add(Input(name=name, polarity=polarity, diode_units=diode_units, copied=none(size)))

    def nodes(
        self, name: str, polarity: Polarity, diode_units: int, terms: tuple[Term, ...],
        bias: Array | None = None, read: bool = False,
    ) -> Mirror:  # fmt: skip
        """A row of summing nodes."""
        size = len(terms[0].units) if terms else len(bias if bias is not None else ())
        if bias is not None:
            self._chosen["bias_rows"].append(name)
        row = Mirror(
            name=name, polarity=polarity, diode_units=diode_units, copied=none(size), terms=terms,
            bias=np.zeros(size) if bias is None else bias, bias_units=self.choices.row_bias_units(name),
            read=read,
        )  # fmt: skip
        self.add(row)
        return row

    def sums(
        self, name: str, polarity: Polarity, diode_units: int, signs: dict[str, int], read: bool = False
    ) -> None:
        """A row of relu(sum of rows), each taken 1:1 with its sign."""
        eye = np.eye(len(self.scaled["projection.bias"]), dtype=np.int64)
        terms = tuple(
            Term(source, sign * self._diode_units[source] * eye, sign * np.eye(len(eye)))
            for source, sign in signs.items()
        )
        self.nodes(name, polarity, diode_units, terms, read=read)

    def matrix(
        self, name: str, diode_units: int, source: str, tensor: str, offset: Array | None = None,
        read: bool = False,
    ) -> None:  # fmt: skip
        """A row of pMOS nodes: relu(W (source - offset) + b), the offset (A) folded into the bias."""
        units, trained = self.quantized(tensor)
        ratio = units / self._diode_units[source]
        bias = self.bias(f"{tensor}.bias", (name,), 0.0 if offset is None else -ratio @ offset)
        self.nodes(name, "p", diode_units, (Term(source, units, trained),), bias, read)

    def pair(
        self, name: str, tensor: str, sources: dict[str, int], diode_units: int, read: bool = True
    ) -> tuple[Mirror, Mirror]:
        """Two rows of pMOS nodes, `{name}_pos` and `{name}_neg`, whose difference is W x + b.

        x is the signed sum of the sources. Each contribution goes to the node where it is positive.
        """
        units, trained = self.quantized(tensor, tuple(sources))
        names = (f"{name}_pos", f"{name}_neg")
        bias = self.bias(f"{tensor}.bias", names)
        rows = []
        for row, side in zip(names, (1, -1), strict=True):
            terms = tuple(
                Term(source, np.maximum(side * sign * units, 0), side * sign * trained)
                for source, sign in sources.items()
            )
            rows.append(self.nodes(row, "p", diode_units, terms, np.maximum(side * bias, 0.0), read))
        return rows[0], rows[1]

    def quantized(self, name: str, sources: tuple[str, ...] = ()) -> tuple[Units, Array]:
        """Whole units of a matrix, and its trained weights; notes the rounding error.

        Raises MappingError for a weight beyond the largest ratio, and where `sources`, whose difference it
        takes, differ in units.
        """
        for source in sources:
            if self._diode_units[source] != self.units[name]:
                raise MappingError(
                    f"mapping.rows: {' and '.join(sources)} have {self._diode_units[sources[0]]} and "
                    f"{self._diode_units[source]} units, but {name}.weight takes their difference: give them "
                    "one number"
                )
        weight, trained = self.scaled[f"{name}.weight"], self.trained[f"{name}.weight"]
        largest = np.unravel_index(np.argmax(np.abs(weight)), weight.shape)
        if abs(weight[largest]) > self.technology.largest_ratio:
            index = [int(i) for i in largest]
            raise MappingError(
                f"{name}.weight{index}: {trained[largest]:g} needs a mirror ratio of "
                f"{abs(weight[largest]):.3g}, the largest is {self.technology.largest_ratio:g}"
            )
        units = unit_counts(weight, self.units[name]).astype(np.int64)
        error = units / self.units[name] - weight
        norm = float(np.sqrt(np.mean(weight**2)))
        self.report.quantization_error[f"{name}.weight"] = (
            float(np.sqrt(np.mean(error**2))) / norm if norm else 0.0
        )
        for count, number in zip(*np.unique(np.abs(units), return_counts=True), strict=True):
            histogram = self.report.unit_histogram
            histogram[int(count)] = histogram.get(int(count), 0) + int(number)
        return units, trained

    def bias(self, name: str, rows: tuple[str, ...], more: Array | float = 0.0) -> Array:
        """Bias currents of rows and `more` (A); refuses one that would leave weak inversion."""
        bias = self.scaled[name] * self.choices.unit_current + more
        largest = min(self.choices.row_bias_units(row) for row in rows) * self.technology.largest_unit_current
        i = int(np.argmax(np.abs(bias)))
        if abs(bias[i]) > largest:
            raise MappingError(
                f"{name}[{i}]: {self.trained[name][i]:g} needs a bias current of {abs(bias[i]):.3g} A, "
                f"the largest is {largest:.3g} A"
            )
        return bias

    def clip(self, tensor: str, index: int, built: float, reason: str) -> float:
        """Note a value built as `built` (A) instead, or refuse it if strict."""
        trained = float(self.trained[tensor][index])
        factor = self.scaled[tensor][index] / trained if trained else 1.0
        model_units = float(built / (self.choices.unit_current * factor))
        self.note_clip(tensor, index, model_units, reason)
        return built

    def note_clip(self, tensor: str, index: int, model_units: float, reason: str) -> None:
        """Note a value built as another, in model units, or refuse it if strict."""
        trained = float(self.trained[tensor][index])
        if self.choices.strict:
            raise MappingError(f"{tensor}[{index}]: {trained:g} would become {model_units:g}: {reason}")
        self.report.clipped.append(Clip(tensor, [index], trained, model_units, reason))


def none(size: int) -> Units:
    """No copies."""
    return np.zeros(size, dtype=np.int64)
