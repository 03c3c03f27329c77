"""Training criteria over cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdditiveAngularMargin(nn.Module):
    """AAM-softmax (arXiv:1801.07698 eq. 3; for speakers arXiv:1906.07317): cross entropy of s cos(theta + m) for the own class.

    Beyond theta = pi - m, where cos(theta + m) would rise again, the linear continuation cos(theta) - m sin(m) is used.
    """

    def __init__(self, dim: int, classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim))
        nn.init.xavier_normal_(self.weight)
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and the share of items whose own class is nearest before the margin."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))
            own = cosines.gather(1, labels[:, None])[:, 0]
            # The gradient of sin = sqrt(1 - cos^2) is unbounded at the poles.
            sine = (1.0 - own.square()).clamp(min=1e-7).sqrt()
            shifted = own * math.cos(margin) - sine * math.sin(margin)
            shifted = torch.where(own > -math.cos(margin), shifted, own - margin * math.sin(margin))
            accuracy = (cosines.argmax(dim=1) == labels).float().mean()
            logits = cosines.scatter(1, labels[:, None], shifted[:, None])
            return F.cross_entropy(self.scale * logits, labels), accuracy


class AngularPrototypical(nn.Module):
    """Angular prototypical loss (arXiv:2003.11982, section 2.3): the two crops of a speaker find each other in the batch."""

    def __init__(self, scale: float = 10.0, bias: float = -5.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            cosines = F.normalize(query.float()) @ F.normalize(support.float()).T
            logits = cosines * self.scale.clamp(min=1e-2) + self.bias
            return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
