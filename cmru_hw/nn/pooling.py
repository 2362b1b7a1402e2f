"""From a logit per frame to one score per class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pool = Literal["mean", "last", "vote"]


def pool_scores(logits: Tensor, lengths: Tensor | None, kind: Pool) -> Tensor:
    """Scores [B, C] from logits [B, T, C], over the first `lengths` [B] frames (all of them if None).

    mean: the average logit; last: the last valid frame; vote: in how many frames each class has the
    largest logit. Ties, among logits and among scores, go to the lowest class index (`argmax`).
    Votes carry no gradient: train on "mean" and decide by "vote".
    Raises ValueError for shapes that do not fit or a length outside 1 .. T.

    >>> import torch
    >>> frames = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    >>> pool_scores(frames, None, "vote").tolist(), pool_scores(frames, torch.tensor([1]), "last").tolist()
    ([[1.0, 2.0]], [[3.0, 0.0]])
    """
    if logits.dim() != 3 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [B, T, C] with T >= 1, got {list(logits.shape)}")
    batch, steps, classes = logits.shape
    if lengths is None:
        lengths = torch.full((batch,), steps, device=logits.device)
    lengths = _checked(lengths, batch, steps).to(logits.device)
    if kind == "last":
        return logits[torch.arange(batch, device=logits.device), lengths - 1]
    valid = (torch.arange(steps, device=logits.device) < lengths.unsqueeze(1)).unsqueeze(2)
    if kind == "mean":
        return torch.where(valid, logits, 0).sum(1) / lengths.unsqueeze(1)
    if kind == "vote":
        votes = torch.nn.functional.one_hot(logits.argmax(2), classes)
        return (votes * valid).sum(1).to(logits.dtype)
    raise ValueError(f"kind must be mean, last or vote, got {kind!r}")


def _checked(lengths: Tensor, batch: int, steps: int) -> Tensor:
    if lengths.is_floating_point() or lengths.dtype == torch.bool or list(lengths.shape) != [batch]:
        raise ValueError(f"lengths must be integers [{batch}], got {lengths.dtype} {list(lengths.shape)}")
    wrong = torch.nonzero((lengths < 1) | (lengths > steps)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(f"lengths must be within 1 .. {steps}, got {int(lengths[first])} at index {first}")
    return lengths
