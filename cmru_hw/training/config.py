"""How a network is trained: the `training` section of a configuration file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cmru_hw.config import Strict


class MarginConfig(Strict):
    """Penalty weight * mean(relu(distance - margin)): keeps candidates away from their thresholds."""

    distance: PositiveFloat
    """Model units."""

    weight: PositiveFloat

    hold: int = Field(default=0, ge=0)
    """Steps without the penalty, in which the task is learnt first."""

    anneal: int = Field(default=0, ge=0)
    """Steps over which the weight then grows from 0."""

    def weight_at(self, step: int) -> float:
        """The weight in the step with this zero-based number."""
        if step < self.hold:
            return 0.0
        return self.weight * (min(1.0, (step - self.hold) / self.anneal) if self.anneal else 1.0)


class QuantizationConfig(Strict):
    """A second phase that trains with matrix weights in whole multiples of 1/units.

    Initial states are then ones that the unit can hold.
    """

    units: PositiveInt
    """Unit transistors that make a ratio of 1."""

    max_ratio: PositiveFloat = 4.0
    """Largest weight; beyond it a mirror costs too many transistors."""

    steps: PositiveInt
    learning_rate: PositiveFloat = 3e-4


class HardwareNoiseConfig(Strict):
    """Chips of the planned circuit in every step: mismatch of each transistor, whole units, temperature."""

    scale: float = Field(default=1.0, ge=0)
    """Factor on the Pelgrom sigmas."""

    anneal: int = Field(default=1000, ge=0)
    """Steps over which that factor grows from 0."""

    chips: PositiveInt = 8
    """Chips drawn a step; the batch is shared out evenly over them."""

    branch_noise: bool = False
    """Noise of the branches that make candidates and logits."""

    temperature_celsius: tuple[float, float] | None = Field(default=None, strict=False)
    """Lowest and highest temperature, one drawn a step, in degrees Celsius."""

    @model_validator(mode="after")
    def _range_rises(self) -> HardwareNoiseConfig:
        if self.temperature_celsius and not self.temperature_celsius[0] <= self.temperature_celsius[1]:
            found = list(self.temperature_celsius)
            raise ValueError(f"temperature_celsius must be the lowest and the highest, got {found}")
        return self

    def strength(self, step: int) -> float:
        """The factor in the step with this zero-based number."""
        return self.scale * (min(1.0, step / self.anneal) if self.anneal else 1.0)


class EarlyStoppingConfig(Strict):
    """Ends a phase whose validation no longer improves."""

    patience: PositiveInt
    """Evaluations in a row without a better validation accuracy, or the same with a lower loss."""


class TrainingConfig(Strict):
    """AdamW with a cosine to 1 % of `learning_rate`; published defaults (arXiv 2605.11855, 2605.15216)."""

    steps: PositiveInt
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    betas: tuple[float, float] = Field(default=(0.9, 0.99), strict=False)
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: PositiveFloat = 1.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    epsilon_hold: int = Field(default=1000, ge=0)
    """Steps at epsilon = 1, for networks that have an epsilon."""

    epsilon_anneal: int = Field(default=5000, ge=0)
    """Steps over which epsilon then falls to 0."""

    weight_noise: float = Field(default=0.0, ge=0)
    """Sigma of the log-normal factor on every parameter, redrawn at each step."""

    candidate_noise: float = Field(default=0.0, ge=0)
    """Standard deviation, in model units, of the noise on every unit's candidate."""

    packet_asymmetry: float = Field(default=0.0, ge=0, le=0.5)
    """Standard deviation of the relative difference of updates up and down, alpha_cmru only; by unit."""

    hardware_noise: HardwareNoiseConfig | None = None
    """In place of `weight_noise` and `packet_asymmetry`, chips of the planned circuit."""

    margin: MarginConfig | None = None
    threshold_floor: float = Field(default=0.0, ge=0)
    """Smallest constant threshold of bmru, cmru and alpha_cmru, model units: kept after each step."""

    weight_limit: PositiveFloat | None = None
    """Matrix weights are clamped to +- this after each step."""

    quantization: QuantizationConfig | None = None

    early_stopping: EarlyStoppingConfig | None = None

    device: Literal["cpu", "cuda", "auto"] | None = None
    """`auto`: the GPU where there is one; None: where the network is, which for commands is the CPU."""

    seed: int = Field(default=0, ge=0)
    evaluate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 1000

    @model_validator(mode="after")
    def _betas_below_one(self) -> TrainingConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {list(self.betas)}")
        return self

    @model_validator(mode="after")
    def _margin_in_time(self) -> TrainingConfig:
        if self.margin and (whole := self.margin.hold + self.margin.anneal) >= self.steps:
            raise ValueError(f"margin.hold + margin.anneal must be below steps ({self.steps}), got {whole}")
        return self

    @model_validator(mode="after")
    def _one_kind_of_mismatch(self) -> TrainingConfig:
        if self.hardware_noise is None:
            return self
        for name in ("weight_noise", "packet_asymmetry"):
            if getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be 0 with hardware_noise, which draws every transistor's error"
                )
        if self.batch_size % self.hardware_noise.chips:
            raise ValueError(
                f"batch_size must be a multiple of hardware_noise.chips ({self.hardware_noise.chips}), "
                f"got {self.batch_size}"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Steps of both phases."""
        return self.steps + (self.quantization.steps if self.quantization else 0)

    def epsilon(self, step: int) -> float:
        """Epsilon in the step with this zero-based number: 1, then linear, then 0."""
        if step < self.epsilon_hold:
            return 1.0
        if step >= self.epsilon_hold + self.epsilon_anneal:
            return 0.0
        return 1.0 - (step - self.epsilon_hold) / self.epsilon_anneal
