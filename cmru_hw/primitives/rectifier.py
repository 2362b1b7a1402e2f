"""Current-mode rectifier: the size of a signed current, for thresholds and amplitudes that follow the input.

    beta_j = |P_j - M_j| = relu(P_j - M_j) + relu(M_j - P_j)

Three rows of ordinary mirrors: two nMOS half waves, which take P and M with opposite signs, and a pMOS row
that adds them, ready as the `threshold_signal` of a window comparator. Eight transistors and a diode each,
and a copy of P and of M. Mismatch acts as in every mirror. A cell with one half wave, P - M + 2 relu(M - P),
has four transistors less, but about twice the error.
Near P = M both half waves conduct: the drain voltages of the two paths differ, and at a node this low the
transistor that pulls down leaves saturation. What remains of beta is 8, 14 and 31 pA where P = M = 0.1, 0.3
and 1 nA. Mismatch adds to it 8 % (1 sd) of what P and M have in common with two units in their diodes, 4 %
with eight, so that is best kept small. From 0.2 to 3 nA beta is within 1.5 % rms of the equation.
Source: |W x + b| in the CMRU, arXiv 2605.11855; numbers measured in ngspice 39 on generic180, 0.8 V, 27 C.
"""

from __future__ import annotations

import numpy as np

from cmru_hw.errors import MappingError
from cmru_hw.primitives.device import Units
from cmru_hw.primitives.mirror import Mirror, Term
from cmru_hw.primitives.signal import Signal
from cmru_hw.technology import Polarity


def rectifier_stages(
    name: str,
    positive: Signal,
    negative: Signal,
    *,
    diode_units: int,
    half_units: int = 2,
    read: bool = False,
) -> tuple[Mirror, Mirror, Mirror]:
    """The rows `{name}_above` and `{name}_below` (n) and `name` (p), in signal order.

    `diode_units` are those of the result's diode. `half_units`, of the half waves' diodes, are few, because
    their gate voltage holds up the pull-down's drain: 1 leaves 6, 11 and 24 pA where 2 leave the above, but
    its mismatch makes the gain 6 % uncertain instead of 4 %. P and M need copies of the other polarity.
    Raises MappingError if P and M differ in size.
    """
    if positive.size != negative.size:
        raise MappingError(
            f"{name}: {positive.name} and {negative.name} must be of one size, "
            f"got {positive.size} and {negative.size}"
        )
    size = positive.size

    def row(
        row_name: str, polarity: Polarity, units: int, taken: dict[str, int], last: bool = False
    ) -> Mirror:
        eye: Units = np.eye(size, dtype=np.int64)
        terms = tuple(
            Term(source, times * eye, np.sign(times) * np.eye(size)) for source, times in taken.items()
        )
        return Mirror(
            name=row_name, polarity=polarity, diode_units=units, copied=np.zeros(size, dtype=np.int64),
            terms=terms, bias=np.zeros(size), bias_units=1, read=read and last,
        )  # fmt: skip

    above, below = f"{name}_above", f"{name}_below"
    plus, minus = {positive.name: positive.diode_units}, {negative.name: negative.diode_units}
    return (
        row(above, "n", half_units, plus | {negative.name: -negative.diode_units}),
        row(below, "n", half_units, {positive.name: -positive.diode_units} | minus),
        row(name, "p", diode_units, {above: half_units, below: half_units}, last=True),
    )
