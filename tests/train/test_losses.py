"""Criteria against SpeechBrain's, against the formula's own autograd, and at the poles."""

from __future__ import annotations

import math

import pytest
import torch
from speechbrain.nnet.losses import AdditiveAngularMargin, AngularMargin, LogSoftmaxWrapper
from torch.nn import functional as F

from train.losses import AngularPrototypical, MarginSoftmax, uniformity


def batch(dim: int = 16, classes: int = 7, items: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(items, dim, generator=generator), torch.randint(classes, (items,), generator=generator)


@pytest.mark.parametrize(("kind", "peer"), [("aam", AdditiveAngularMargin), ("am", AngularMargin)])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_margins_equal_speechbrains(kind: str, peer: type, margin: float) -> None:
    embeddings, labels = batch()
    ours = MarginSoftmax(16, 7, kind)
    loss, _ = ours(embeddings, labels, margin)
    cosines = F.linear(F.normalize(embeddings), F.normalize(ours.weight))
    theirs = LogSoftmaxWrapper(peer(margin=margin, scale=30.0))
    expected = theirs(cosines[:, None], labels[:, None])
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def own_gradient(cosine: float, margin: float) -> tuple[float, float]:
    """d loss / d cosine of the own class by `MarginSoftmax`, and by autograd of the formula in float64."""
    module = MarginSoftmax(2, 2, scale=1.0)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
    value = torch.tensor([[cosine]], requires_grad=True)
    module._shift(value, margin).sum().backward()
    exact = torch.tensor(cosine, dtype=torch.float64, requires_grad=True)
    torch.cos(torch.acos(exact) + margin).backward()
    assert value.grad is not None
    assert exact.grad is not None
    return float(value.grad), float(exact.grad)


@pytest.mark.parametrize("cosine", [1 - 1e-4, 0.9, 0.3, 0.0, -0.4, -0.9])
def test_gradient_is_the_formulas_away_from_the_poles(cosine: float) -> None:
    ours, exact = own_gradient(cosine, 0.2)
    assert ours == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("cosine", [1.0, 1 - 1e-7, -1.0])
def test_gradient_is_finite_at_the_poles(cosine: float) -> None:
    embedding = torch.tensor([[cosine, math.sqrt(max(0.0, 1 - cosine**2))]], requires_grad=True)
    module = MarginSoftmax(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
    loss, _ = module(embedding, torch.tensor([0]), 0.3)
    loss.backward()
    assert torch.isfinite(loss)
    assert embedding.grad is not None
    assert torch.isfinite(embedding.grad).all()


def test_of_several_centres_the_nearest_counts() -> None:
    embeddings, labels = batch()
    module = MarginSoftmax(16, 7, subcentres=3)
    every = F.linear(F.normalize(embeddings), F.normalize(module.weight))
    expected = torch.stack([every[:, 3 * c : 3 * c + 3].max(dim=1).values for c in range(7)], dim=1)
    assert torch.equal(module.cosines(embeddings), expected)
    loss, accuracy = module(embeddings, labels, 0.2)
    assert torch.isfinite(loss)
    assert 0.0 <= float(accuracy) <= 1.0


@pytest.mark.parametrize("kind", ["aam", "am"])
def test_the_top_k_penalty_makes_look_alikes_cost_more(kind: str) -> None:
    embeddings, labels = batch()
    plain, strict = MarginSoftmax(16, 7, kind), MarginSoftmax(16, 7, kind, top_k=2, top_penalty=0.06)
    strict.load_state_dict(plain.state_dict())
    loss, _ = plain(embeddings, labels, 0.2)
    stricter, _ = strict(embeddings, labels, 0.2)
    # By hand: the two nearest wrong classes of each item, moved by the penalty.
    cosines = plain.cosines(embeddings)
    logits = cosines.clone()
    for row, label in enumerate(labels.tolist()):
        wrong = [c for c in cosines[row].argsort(descending=True).tolist() if c != label][:2]
        for c in wrong:
            theta = torch.acos(cosines[row, c])
            logits[row, c] = torch.cos(theta - 0.06) if kind == "aam" else cosines[row, c] + 0.06
        own = cosines[row, label]
        logits[row, label] = torch.cos(torch.acos(own) + 0.2) if kind == "aam" else own - 0.2
    assert float(stricter) == pytest.approx(float(F.cross_entropy(30.0 * logits, labels)), rel=1e-3)
    assert float(stricter) > float(loss)


@pytest.mark.parametrize("top_k", [0, 2, 5])
def test_rivals_of_the_own_collection_are_all_that_count(top_k: int) -> None:
    """As if each collection had a softmax of its own, and nothing is learnt from a centre of another one."""
    embeddings, labels = batch()
    collections = torch.tensor([0, 1, 0, 1, 1, 0, 0])
    every = MarginSoftmax(16, 7, top_k=top_k)
    module = MarginSoftmax(16, 7, top_k=top_k, collections=collections)
    module.load_state_dict(every.state_dict())  # no key more
    loss, accuracy = module(embeddings, labels, 0.2)
    assert accuracy == every(embeddings, labels, 0.2)[1]
    parts = 0.0
    for number in (0, 1):
        classes = (collections == number).nonzero()[:, 0]
        own = (collections[labels] == number).nonzero()[:, 0]
        alone = MarginSoftmax(16, len(classes), top_k=top_k)
        with torch.no_grad():
            alone.weight.copy_(module.weight[classes])
        part, _ = alone(embeddings[own], torch.searchsorted(classes, labels[own]), 0.2)
        parts += float(part) * len(own) / len(labels)
    assert float(loss) == pytest.approx(parts, rel=1e-5)
    one = embeddings[labels == 1][:1]
    module(one, torch.tensor([1]), 0.2)[0].backward()
    assert module.weight.grad is not None
    assert torch.isfinite(module.weight.grad).all()
    assert (module.weight.grad[collections == 0] == 0).all()
    assert (module.weight.grad[1] != 0).any()


def test_prototypes_reward_crops_that_find_each_other() -> None:
    module = AngularPrototypical()
    speakers = torch.eye(6)
    matched, mixed = module(speakers, speakers), module(speakers, speakers.roll(1, 0))
    assert float(matched) < math.log(6) < float(mixed)


def test_uniformity_is_the_mean_over_rivals_of_the_own_collection() -> None:
    embeddings, labels = batch()
    collections = torch.tensor([0, 1, 0, 1, 1, 0, 2])[labels]  # the third has one speaker, who has no rival
    unit = F.normalize(embeddings)
    each = []
    for i in range(len(labels)):
        rivals = [
            math.exp(4.0 * float(unit[i] @ unit[j]))
            for j in range(len(labels))
            if collections[j] == collections[i] and labels[j] != labels[i]
        ]
        each += [math.log(sum(rivals) / len(rivals))] if rivals else []
    assert len(each) < len(labels)
    found = uniformity(embeddings, labels, collections)
    assert float(found) == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert float(uniformity(7.0 * embeddings, labels, collections)) == pytest.approx(float(found), rel=1e-5)


def test_uniformity_sees_what_a_softmax_does_not_and_takes_it_away() -> None:
    """A direction that all speakers share raises it, and its gradient is against that direction."""
    embeddings, labels = batch()
    collections = torch.zeros_like(labels)
    shared = 2.0 * F.normalize(torch.ones(16), dim=0)
    moved = (F.normalize(embeddings) + shared).requires_grad_()
    loss = uniformity(moved, labels, collections)
    assert float(loss) > float(uniformity(embeddings, labels, collections)) + 1.0
    loss.backward()
    assert moved.grad is not None
    assert float(moved.grad.sum(dim=0) @ shared) > 0.0


def test_uniformity_of_no_rivals_is_nothing_that_can_be_descended_on() -> None:
    embeddings = torch.randn(4, 16, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1])
    loss = uniformity(embeddings, labels, labels)
    loss.backward()
    assert float(loss) == 0.0
    assert embeddings.grad is not None and not embeddings.grad.any()
