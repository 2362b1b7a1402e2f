"""The value of nested expressions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cmru_hw.training.tasks.task import GeneratedOptions, Split, Task

Operator = Literal["MIN", "MAX", "MED", "SM"]
Expression = tuple[list[str], int]
"""Tokens and value."""

DEEPER = 0.3
"""Chance that an argument is an expression rather than a digit, where there is depth left."""


class Expressions(GeneratedOptions):
    """The value of an expression like [MAX 2 9 [MIN 4 7 ] 0 ], one token a frame.

    MIN, MAX, MED (the median, the lower one of two) and SM (the sum modulo `digits`) of 2 to `arguments`
    digits or expressions, nested at most `depth` deep, at most `length` tokens. An operator opens its
    bracket. Tokens are one-hot vectors: the digits, the operators as configured, the closing bracket.
    All values are equally frequent, but for what is left where `digits` does not divide the size. The idea is
    that of ListOps (Nangia and Bowman 2018, arXiv 1804.06028); the generator is our own.
    """

    name: Literal["expressions"] = "expressions"
    operators: tuple[Operator, ...] = Field(default=("MIN", "MAX", "MED", "SM"), min_length=1, strict=False)
    digits: int = Field(default=10, ge=2, le=10)
    depth: int = Field(default=2, ge=1, le=8)
    arguments: int = Field(default=4, ge=2, le=10)
    length: int = Field(default=30, ge=4)

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the components of a frame stand for."""
        return (*map(str, range(self.digits)), *(f"[{name}" for name in self.operators), "]")

    def load(self, seed: int) -> Task:
        train, validation, test = self.generate(self._draw, seed)
        return Task(
            name=self.name,
            input_size=len(self.tokens),
            num_classes=self.digits,
            class_names=tuple(map(str, range(self.digits))),
            train=train,
            validation=validation,
            test=test,
            frame="one token, one-hot: " + " ".join(self.tokens),
        )

    def _draw(self, size: int, random: np.random.Generator) -> Split:
        wanted = random.permutation(np.arange(size) % self.digits)
        found: list[list[list[str]]] = [[] for _ in range(self.digits)]
        missing = np.bincount(wanted, minlength=self.digits)
        while missing.any():
            tokens, value = self._expression(random, self.depth)
            if len(tokens) <= self.length and missing[value]:
                found[value].append(tokens)
                missing[value] -= 1
        number = {token: place for place, token in enumerate(self.tokens)}
        x = np.zeros((size, self.length, len(number)), dtype=np.float32)
        lengths = np.zeros(size, dtype=np.int64)
        for row, value in enumerate(wanted):
            tokens = found[value].pop()
            lengths[row] = len(tokens)
            x[row, np.arange(len(tokens)), [number[token] for token in tokens]] = 1
        return Split(x, wanted, lengths)

    def _expression(self, random: np.random.Generator, depth: int) -> Expression:
        """An expression with up to `depth` brackets in each other."""
        operator = self.operators[random.integers(len(self.operators))]
        tokens, values = [f"[{operator}"], []
        for _ in range(random.integers(2, self.arguments + 1)):
            if depth > 1 and random.random() < DEEPER:
                inner, value = self._expression(random, depth - 1)
            else:
                value = int(random.integers(self.digits))
                inner = [str(value)]
            tokens += inner
            values.append(value)
        return [*tokens, "]"], self._apply(operator, values)

    def _apply(self, operator: Operator, values: list[int]) -> int:
        if operator == "SM":
            return sum(values) % self.digits
        rising = sorted(values)
        return rising[{"MIN": 0, "MED": (len(rising) - 1) // 2, "MAX": -1}[operator]]
