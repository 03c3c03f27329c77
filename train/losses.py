"""Training criteria over cosines. All compute in float32, outside autocast."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SUBCENTRE_SPREAD = 0.3
"""How far the sub-centres of a class lie from the centre that they start at, as a part of it."""


class MarginSoftmax(nn.Module):
    """Softmax over scaled cosines to class centres, with a margin that the own class must win by.

    - ``aam``: cross entropy of s cos(theta + m) (arXiv:1801.07698 eq. 3; for speakers arXiv:1906.07317). Beyond
      theta = pi - m, where cos(theta + m) would rise again, the linear continuation cos(theta) - m sin(m) is used.
    - ``am``: cross entropy of s (cos(theta) - m) (arXiv:1801.05599 eq. 6).

    Args:
        dim: Embedding dimensions.
        classes: Speakers.
        kind: ``aam`` or ``am``.
        scale: s.
        subcentres: Centres per class, of which the nearest counts (Deng et al., 'Sub-center ArcFace', ECCV 2020, eq. 2):
            noisy labels get a centre of their own.
        top_k: So many of the nearest wrong classes are pulled nearer by `top_penalty` (an angle for ``aam``, a cosine
            for ``am``), so that the model separates look-alikes (inter-top-k penalty, arXiv:2110.05042 eq. 6).
        top_penalty: See there.
        collections: int64 [classes], the number of the collection that each class belongs to: only classes of its own collection
            are an item's rivals, the softmax is over these alone. None: all classes are.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        kind: str = "aam",
        scale: float = 30.0,
        subcentres: int = 1,
        top_k: int = 0,
        top_penalty: float = 0.06,
        collections: Tensor | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("aam", "am"):
            raise ValueError(f"unknown margin {kind!r}: choose aam or am")
        self.weight = nn.Parameter(torch.empty(classes * subcentres, dim))
        nn.init.xavier_normal_(self.weight)
        self.kind, self.scale, self.subcentres = kind, scale, subcentres
        self.top_k, self.top_penalty = min(top_k, classes - 1), top_penalty
        self.collections: Tensor | None
        self.register_buffer("collections", collections, persistent=False)

    @torch.no_grad()
    def start(self, centres: Tensor) -> None:
        """Turns the random centres to these unit rows [classes, dim]. Their lengths stay, and with them how fast they turn."""
        towards = centres.to(self.weight).repeat_interleave(self.subcentres, 0)
        if self.subcentres > 1:  # equal ones would get equal gradients for ever
            towards = F.normalize(towards + SUBCENTRE_SPREAD * F.normalize(self.weight))
        self.weight.copy_(towards * self.weight.norm(dim=1, keepdim=True))

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Embeddings [b, dim], of any length -> cosines [b, classes]."""
        every = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))
        if self.subcentres == 1:
            return every
        nearest: Tensor = every.unflatten(1, (-1, self.subcentres)).amax(dim=2)
        return nearest

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and the share of items whose own class is nearest before the margin."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = self.cosines(embeddings)
            accuracy = (cosines.argmax(dim=1) == labels).float().mean()
            own = cosines.gather(1, labels[:, None])
            logits = cosines
            foreign = (
                None if self.collections is None else self.collections != self.collections[labels][:, None]
            )
            if self.top_k:
                with torch.no_grad():
                    wrong = cosines.scatter(1, labels[:, None], -2.0)
                    if foreign is not None:
                        wrong = wrong.masked_fill(foreign, -2.0)
                    nearest = wrong.topk(self.top_k, dim=1).indices
                logits = logits.scatter(
                    1, nearest, self._shift(cosines.gather(1, nearest), -self.top_penalty)
                )
            logits = logits.scatter(1, labels[:, None], self._shift(own, margin))
            if foreign is not None:
                logits = logits.masked_fill(foreign, -math.inf)
            return F.cross_entropy(self.scale * logits, labels), accuracy

    def _shift(self, cosine: Tensor, margin: float) -> Tensor:
        """The cosine with its angle widened by `margin` (``aam``), or the cosine lessened by it (``am``)."""
        if self.kind == "am":
            return cosine - margin
        # The gradient of sin = sqrt(1 - cos^2) is unbounded at the poles.
        sine = (1.0 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(margin) - sine * math.sin(margin)
        if margin > 0.0:
            return torch.where(cosine > -math.cos(margin), shifted, cosine - margin * math.sin(margin))
        # Nearer than theta = 0 there is nothing.
        return torch.where(cosine < math.cos(margin), shifted, torch.ones_like(cosine))


class AngularPrototypical(nn.Module):
    """Angular prototypical loss (arXiv:2003.11982, section 2.3): the two crops of a speaker find each other in the batch."""

    def __init__(self, scale: float = 10.0, bias: float = -5.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """Embeddings [speakers, dim] twice, row by row the same speaker -> loss (scalar)."""
        with torch.autocast(query.device.type, enabled=False):
            cosines = F.normalize(query.float()) @ F.normalize(support.float()).T
            logits = cosines * self.scale.clamp(min=1e-2) + self.bias
            return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def uniformity(embeddings: Tensor, labels: Tensor, collections: Tensor) -> Tensor:
    """How near the speakers of one collection lie to each other: log mean exp(4 cos) over an item's rivals, the items of other
    speakers of its collection (the uniformity loss of arXiv:2005.10242, section 4.1.2 with t = 2, up to its constant).

    A softmax over the speakers of one collection takes no notice of a direction that all of them share, but the cosine of two of
    them does, and so does one threshold for several collections.

    Args:
        embeddings: [b, dim], of any length.
        labels: int64 [b], the speaker of each.
        collections: int64 [b], the collection of each.

    Returns:
        Scalar in [-4, 4]: the mean over the items that have a rival; 0 where none has.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float())
        rivals = (collections[:, None] == collections) & (labels[:, None] != labels)
        logits = (4.0 * unit @ unit.T).masked_fill(~rivals, -math.inf)
        heard = rivals.any(dim=1)
        if not heard.any():
            return embeddings.sum() * 0.0
        each = logits[heard].logsumexp(dim=1) - rivals[heard].sum(dim=1).log()
        return each.mean()
