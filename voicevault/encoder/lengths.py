"""For networks that must not see padding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_length(embed: Callable[[Tensor], Tensor], inputs: Tensor, counts: Tensor | None) -> Tensor:
    """Rows of `embed`, which gets the items of each length together and without padding.

    Args:
        inputs: [b, ..., t], padded.
        counts: int64 [b], how much of the last axis is each item's; None where all fill it.
    """
    if counts is None:
        return embed(inputs)
    out: Tensor | None = None
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        part = embed(inputs[rows, ..., :count])
        if out is None:
            out = part.new_empty(len(inputs), part.shape[1])
        out[rows] = part
    assert out is not None
    return out
