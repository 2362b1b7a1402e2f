"""A network on mismatched chips: its forward pass as the circuit's rows of currents, in torch.

Values are currents over the unit current. The batch is shared out evenly over the chips. Left out are
systematic errors, which are the same on every chip, and dynamics. Thresholds decide through the surrogate
derivative of `nn.surrogate`, so gradients reach every parameter and the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cmru_hw.errors import ConfigError
from cmru_hw.nn.fq_bmru import FQBMRUCell
from cmru_hw.nn.network import Network
from cmru_hw.nn.pooling import pool_scores
from cmru_hw.nn.saturating_scan import clipped_scan
from cmru_hw.nn.scan import linear_scan
from cmru_hw.nn.surrogate import step
from cmru_hw.nn.units import AlphaCMRUCell, BMRUCell, CMRUCell, SignedCell
from cmru_hw.primitives.comparator import HALVES, comparator_geometry
from cmru_hw.primitives.integrator import HIGH, LOW, MIDDLE, integrator_geometry
from cmru_hw.primitives.latch import calibration
from cmru_hw.primitives.noise_source import CHARGE
from cmru_hw.technology import Technology
from cmru_hw.training.chips import Chips, Mismatch, Process, Sizes
from cmru_hw.training.circuit import Planned, circuit_of

Parameters = Mapping[str, Tensor]
NOISY = ("candidate", "candidate_pos", "pos")
"""Where noise is read, as in the behavioural model: rows by the first of their sum, without the layer."""
MIDDLE_OVER_RAILS = 2 * MIDDLE / (HIGH - LOW)


class Hardware:
    """Runs a network on chips of its circuit. Raises ConfigError for a network without one."""

    def __init__(self, network: Network, planned: Planned, technology: Technology) -> None:
        self.network, self.planned, self.technology = network, planned, technology
        self.circuit = circuit_of(network.config, planned, technology)
        like = next(network.parameters())
        shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
        self.mismatch = Mismatch(self.circuit, shapes, technology, like)
        self.sizes = Sizes.planned(self.circuit, planned, like)
        config = network.config
        self._gates = 1 if config.unit == "fq_bmru" else len(HALVES)
        self._last = (
            "candidate"
            if config.unit == "fq_bmru"
            else "amplitude"
            if config.unit == "alpha_cmru"
            else "beta"
            if config.input_dependent_threshold
            else "candidate_pos"
        )
        table = calibration(technology)
        self._programmed = np.log(table.threshold), table.up[:, len(table.ratio) // 2]

    def deviates(self, chips: int) -> Tensor:
        """Standard normal numbers of torch's default generator, a row a chip."""
        return torch.randn(chips, self.mismatch.count).to(self.sizes.diode)

    def draw(
        self,
        parameters: Parameters,
        deviates: Tensor,
        sizes: Sizes | None = None,
        celsius: float | None = None,
        dither: Tensor | None = None,
    ) -> Chips:
        """Chips of the network with these parameters; `deviates` times what sigmas are to be scaled by."""
        process = Process.of(self.technology if celsius is None else self.technology.at(celsius))
        return self.mismatch.draw(
            self._signed_outputs(parameters),
            self._offsets(parameters),
            deviates,
            sizes or self.sizes,
            process,
            dither,
        )

    def run(
        self, x: Tensor, lengths: Tensor | None, parameters: Parameters, chips: Chips, noise: bool = False
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Scores [B, C], and by layer the distances of the candidates from their nearest threshold (model
        units) and the states, [B, T, N]; x [B, T, I], B a multiple of the chips, which take equal shares.
        With `noise`, that of the branches that meet in the nodes of candidates and outputs.
        """
        values, margins, states = self.rows(x, parameters, chips, noise)
        logits = (values["readout_pos"] - values["readout_neg"]).view(*x.shape[:2], -1)
        return pool_scores(logits, lengths, self.network.config.pool), margins, states

    def rows(
        self, x: Tensor, parameters: Parameters, chips: Chips, noise: bool = False
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Currents of every row, [chips, sequences x frames, size] (model units), margins and states."""
        count, (batch, frames, size) = len(chips.native["input_pos"]), x.shape
        if batch % count:
            raise ConfigError(f"hardware: {batch} sequences cannot be shared out evenly over {count} chips")
        u = x.reshape(count, -1, size)
        quiescent = self.planned.quiescent_current / self.planned.unit_current
        values = {"input_pos": u.relu() + quiescent, "input_neg": (-u).relu() + quiescent}
        margins, states = [], []
        for name, sums in self.circuit.sums.items():
            if sums.tensor is None:
                gains = chips.gains[name]
                total = gains[:, None, 0] * values[sums.sources[0]]
                for k, source in enumerate(sums.sources[1:], start=1):
                    total = torch.addcmul(total, gains[:, None, k], values[source])
            else:
                taken = [values[source] for source in sums.sources]
                joined = torch.cat(taken, dim=2) if len(taken) > 1 else taken[0]
                bias = chips.bias[name][:, None]
                total = torch.baddbmm(bias, joined, chips.gains[name].transpose(1, 2))
                if noise and name.partition("_")[2] in NOISY:
                    total = total + self._branch_noise(name, total, joined, chips)
            rows = total.relu().chunk(len(sums.rows), dim=2)
            values |= dict(zip(sums.rows, rows, strict=True))
            layer = self._complete(name)
            if layer is not None:
                row, current, margin, state = self._cell(layer, parameters, chips, values, (batch, frames))
                values[row] = current.reshape(count, -1, current.shape[-1])
                margins.append(margin)
                states.append(state)
        return values, margins, states

    def _branch_noise(self, name: str, total: Tensor, joined: Tensor, chips: Chips) -> Tensor:
        """White noise of all branches of a row's nodes, 2 q I each, in the nodes' bandwidth g / (4 C)."""
        card, sums, gains = self.technology, self.circuit.sums[name], chips.gains[name].detach().abs()
        row = self.circuit.rows[name]
        with torch.no_grad():
            current = total.relu()
            bias = chips.bias[name].abs()[:, None]
            flows = torch.baddbmm(bias, joined, gains.transpose(1, 2)) + current
            weight = self.circuit.rows[sums.sources[0]].weight
            drains = gains.sum(dim=2) * weight + (bias[:, 0] > 0) * self.sizes.bias
            drains = drains * card.drain_capacitance.n
            own = row.diode * card.diode_capacitance.of(row.polarity)
            if not name.startswith("readout"):
                own += self._gates * card.latch_units * card.gate_capacitance.of(row.polarity)
            slope = card.slope_factor.of(row.polarity) * card.thermal_voltage
            factor = (card.noise_factor.n + card.noise_factor.p) / 2 * 2 * CHARGE / (4 * slope)
            variance = factor * flows * current / (own + drains[:, None])
            return variance.sqrt() * torch.randn(variance.shape).to(variance)

    def _complete(self, name: str) -> int | None:
        """The layer whose cells have all they take once the sum `name` is there."""
        prefix, _, rest = name.partition("_")
        return int(prefix.removeprefix("layer")) if rest == self._last else None

    def _cell(
        self,
        layer: int,
        parameters: Parameters,
        chips: Chips,
        values: dict[str, Tensor],
        shape: tuple[int, int],
    ) -> tuple[str, Tensor, Tensor, Tensor]:
        """The row that tells a layer's state, its currents, the candidates' margins, the states."""
        cell = self.network.units[layer]
        if isinstance(cell, FQBMRUCell):
            return self._latch(layer, cell, parameters, chips, values, shape)
        assert isinstance(cell, SignedCell)
        up, down, margin = self._window(layer, cell, parameters, chips, values)
        up, down, margin = (one.view(*shape, -1) for one in (up, down, margin))
        start = parameters.get(f"layers.{layer}.unit.initial_state", cell.initial_state)
        start = start.expand(shape[0], -1)
        if isinstance(cell, AlphaCMRUCell):
            row, current, state = self._integrator(layer, cell, chips, values, up, down, start)
            return row, current, margin, state
        decision = up - down
        if isinstance(cell, CMRUCell):
            assert cell.levels is not None
            state = clipped_scan(decision, start, cell.levels)
        else:
            assert isinstance(cell, BMRUCell)
            moved = up + down - 2 * up * down
            state = linear_scan(1 - (1 - cell.epsilon) * moved, decision, start)
        return f"layer{layer}_bank", self._bank(layer, cell, parameters, chips, state), margin, state

    def _latch(
        self, layer: int, cell: FQBMRUCell, parameters: Parameters, chips: Chips, values: dict[str, Tensor],
        shape: tuple[int, int],
    ) -> tuple[str, Tensor, Tensor, Tensor]:  # fmt: skip
        name = f"layer{layer}_latch"
        high, low = self.latch_thresholds(layer, parameters, chips)
        c = cell.disturbed(values[f"layer{layer}_candidate"])
        above, below = c - high[:, None], c - low[:, None]
        margin = torch.minimum(above.abs(), below.abs())
        set_ = step(above)
        keep = step(below) * (1 - set_)
        state = linear_scan(
            (keep + cell.epsilon * (1 - keep)).view(*shape, -1), set_.view(*shape, -1),
            cell.initial_state.expand(shape[0], -1),
        )  # fmt: skip
        strength = (chips.parts[f"{name}.m5"] - chips.parts[f"{name}.reference_gain"]).exp()
        output = parameters[f"layers.{layer}.unit.gain"] * strength
        current = state.view(len(output), -1, output.shape[1]) * output[:, None]
        return name, current, margin.view(*shape, -1), state

    def latch_thresholds(self, layer: int, parameters: Parameters, chips: Chips) -> tuple[Tensor, Tensor]:
        """Upper and lower threshold of 9T latches at the candidate's diode, [chips, N] (model units).

        M2 and its reference scale I_thresh; M8, its reference, M9 and M7 the feedback; M6 by how much the
        upper threshold is early.
        """
        name, unit = f"layer{layer}_latch", f"layers.{layer}.unit"

        def part(which: str) -> Tensor:
            return chips.parts[f"{name}.{which}"]

        low = parameters[f"{unit}.threshold_low"]
        high = low + parameters[f"{unit}.width"]
        thresh = self.programmed_threshold(high)
        scale = (part("m2") - part("reference_threshold")).exp()
        feedback = (part("m8") - part("reference_width") + part("m9") - part("m7")).exp()
        early = (part("m6") * (chips.process.slope / (chips.process.slope + 1))).exp()
        high = thresh * scale - (thresh - high) * scale * early
        low = (low + thresh * (scale - 1) - (thresh - low).clamp(min=0) * (feedback - 1)).relu()
        taken = (-part("m1") - chips.native[f"layer{layer}_candidate"]).exp()
        return high * taken, low * taken

    def programmed_threshold(self, high: Tensor) -> Tensor:
        """I_thresh of latches with an upper threshold (model units each)."""
        amperes = (high.detach().double().cpu().numpy() * self.planned.unit_current).clip(min=1e-15)
        return high * torch.from_numpy(1 / np.interp(np.log(amperes), *self._programmed)).to(high)

    def _window(
        self, layer: int, cell: SignedCell, parameters: Parameters, chips: Chips, values: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Up, down and the distance from the nearer threshold: win P > lose M + beta and likewise M > P."""
        name, rows = f"layer{layer}_comparator", [f"layer{layer}_candidate_{side}" for side in ("pos", "neg")]

        def part(which: str) -> Tensor:
            return chips.parts[f"{name}.{which}"]

        native = torch.stack([chips.native[row] for row in rows], dim=-1)
        pair = comparator_geometry(self.technology).pair_weight * (part("pair_rest") - part("pair_out"))
        win = native + part("win") + pair
        lose = (native.flip(-1) + part("lose") - win).exp()
        if isinstance(cell.threshold, torch.nn.Linear):
            row = f"layer{layer}_beta"
            beta = values[row]
        else:
            row = name
            beta = parameters[f"layers.{layer}.unit.threshold"].abs()
        threshold = (chips.native[row][..., None] + part("threshold") - win).exp()
        signals = [values[row] for row in rows]
        noise = cell.disturbed(torch.zeros_like(signals[0]))
        found = []
        for half, sign in enumerate((1, -1)):
            against = torch.addcmul(
                beta * threshold[:, None, :, half], signals[1 - half], lose[:, None, :, half]
            )
            found.append(signals[half] + sign * noise - against)
        return step(found[0]), step(found[1]), torch.minimum(found[0].abs(), found[1].abs())

    def _bank(
        self, layer: int, cell: BMRUCell | CMRUCell, parameters: Parameters, chips: Chips, state: Tensor
    ) -> Tensor:
        """Currents of the steps that are set; between two whole states a share of the next."""
        name = f"layer{layer}_bank"
        strengths = (chips.parts[f"{name}.alpha"] - chips.parts[f"{name}.reference_alpha"][..., None]).exp()
        latches = strengths.shape[-1]
        reach = latches / 2 if isinstance(cell, CMRUCell) else 1.0
        size = 2 * reach / latches
        each = (
            size * parameters[f"layers.{layer}.unit.gain"].abs()[:, None] * strengths
        )  # [chips, N, latches]
        filled = ((state + reach) / size)[..., None] - torch.arange(latches).to(state)
        filled = filled.clamp(0, 1).view(len(each), -1, *each.shape[1:])
        return (filled * each[:, None]).sum(-1)

    def _integrator(
        self, layer: int, cell: AlphaCMRUCell, chips: Chips, values: dict[str, Tensor], up: Tensor,
        down: Tensor, start: Tensor,
    ) -> tuple[str, Tensor, Tensor]:  # fmt: skip
        """Packets up and down through mirrors of their own, and what would pass a rail taken off again."""
        name, weights, rails = (
            f"layer{layer}_integrator",
            integrator_geometry(self.technology),
            cell.rails or 0.0,
        )
        middle = MIDDLE_OVER_RAILS * rails
        batch, frames, size = up.shape

        def part(which: str) -> Tensor:
            return chips.parts[f"{name}.{which}"]

        def gain(log: Tensor) -> Tensor:
            """[chips, N] for each sequence of the batch."""
            return log.exp().repeat_interleave(batch // len(log), dim=0)

        row = weights.packet_weight * chips.native[f"layer{layer}_amplitude"]
        sunk = row + weights.packet_weight * part("packet_copy") - part("packet_sink")
        state, reference = (
            weights.memory_weight * part("memory_state"),
            weights.rail_weight * part("reference"),
        )
        a = values[f"layer{layer}_amplitude"].view(batch, frames, size)
        up, down = up * (1 - down), down * (1 - up)
        rising = gain(sunk + part("packet_pull"))[:, None] * a
        falling = gain(row + weights.packet_weight * part("packet_push"))[:, None] * a
        high = (middle + rails) * gain(weights.rail_weight * part("rails_high") - reference)
        low = (middle - rails) * gain(weights.rail_weight * part("rails_low") - reference)
        past_high = gain(sunk + part("rails_over_sink"))[:, None] * a - high[:, None]
        past_low = gain(row + weights.packet_weight * part("rails_under_push"))[:, None] * a + low[:, None]
        over_state = gain(weights.memory_weight * part("rails_over_state") - state)
        under_state = -gain(weights.memory_weight * part("rails_under_state") - state)
        off_high = -up * gain(part("packet_over") - part("rails_over"))[:, None]
        off_low = down * gain(part("packet_under") - part("rails_under"))[:, None]
        moved = up * rising - down * falling
        held = middle * gain(weights.rail_weight * part("memory_middle") - reference) + start
        found = []
        steps = (one.unbind(1) for one in (past_high, past_low, off_high, off_low, moved))
        for over, under, take, give, move in zip(*steps, strict=True):
            over = torch.addcmul(over, over_state, held).relu()
            under = torch.addcmul(under, under_state, held).relu()
            held = torch.addcmul(torch.addcmul(held + move, take, over), give, under)
            found.append(held)
        current = (
            torch.stack(found, dim=1) * gain(weights.memory_weight * part("memory_output") - state)[:, None]
        )
        return name, current, current - middle

    def _signed_outputs(self, parameters: Parameters) -> Parameters:
        """A gain's sign goes to its output column."""
        if self.network.config.unit not in ("bmru", "cmru"):
            return parameters
        signed = dict(parameters)
        for layer in range(self.circuit.layers):
            output = f"layers.{layer}.output.weight"
            signed[output] = signed[output] * parameters[f"layers.{layer}.unit.gain"].sign()
        return signed

    def _offsets(self, parameters: Parameters) -> dict[str, Tensor]:
        """What the rows that tell the states carry where h = 0, by the matrix that reads them."""
        found = {}
        for layer, cell in enumerate(self.network.units):
            if isinstance(cell, CMRUCell | BMRUCell):
                reach = cell.levels or 1 if isinstance(cell, CMRUCell) else 1
                found[f"layers.{layer}.output"] = reach * parameters[f"layers.{layer}.unit.gain"].abs()
            elif isinstance(cell, AlphaCMRUCell):
                offset = self.sizes.diode.new_full(
                    (cell.hidden_size,), MIDDLE_OVER_RAILS * (cell.rails or 0.0)
                )
                found[f"layers.{layer}.output"] = offset
        return found
