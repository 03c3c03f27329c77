"""The benchmark of the index: its galleries are what they say, and its rows give every number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.command import main
from benchmarks.galleries import KINDS, grown, hard, mixed
from benchmarks.index import IndexOptions
from benchmarks.rows import read_rows


def test_a_hard_gallery_is_as_described() -> None:
    population = hard(192, 0)
    vectors = population.speakers(3000, 1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    impostors = (vectors[:1000] @ vectors[1000:].T).ravel()
    assert abs(impostors.mean()) < 0.01
    assert impostors.std() == pytest.approx(0.1, abs=0.005)
    assert np.array_equal(vectors, hard(192, 0).speakers(3000, 1))
    assert not np.array_equal(vectors, population.speakers(3000, 2))
    own, weak, strange = (
        np.sort((population.probes(vectors, 900, k, 3) @ vectors.T).max(axis=1)) for k in KINDS
    )
    assert own.mean() == pytest.approx(0.70, abs=0.01) and own.std() == pytest.approx(0.07, abs=0.01)
    assert weak[450] < 0.56 and strange[450] < 0.45
    probes, kinds = mixed(population, vectors, 10, 4)
    assert probes.shape == (10, 192) and list(kinds[:4]) == [*KINDS, KINDS[0]]


def test_a_grown_gallery_resembles_its_model(tiny_model: Path, voices: dict[str, list[Path]]) -> None:
    population = grown(IndexOptions(model=str(tiny_model), voices=next(iter(voices.values()))[0].parents[1]))
    vectors = population.speakers(2000, 1)
    assert population.mean.shape == (vectors.shape[1],)
    # An untrained model puts everybody into one narrow cone, and so must the gallery.
    assert np.linalg.norm(vectors.mean(axis=0) - population.mean) < 0.05
    spread = np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()
    assert spread == pytest.approx(np.square(population.between).sum(), rel=0.2)
    for kind in KINDS:
        probes = population.probes(vectors, 30, kind, 2)
        np.testing.assert_allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-5)
    assert "recordings of" in population.note


def test_index(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--quick", "--json", "--out", str(tmp_path), "--model", str(tiny_model))
    assert main(["index", "--galleries", "hard", "--no-graphs", "--seconds", "0.3", *common]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".md", ".png"]
    recorded = read_rows(Path(found["rows"]))
    assert found["metrics"]["recall_1_hard_20000"] == found["metrics"]["recall_10_hard_20000"] == 1.0
    assert set(recorded.distinct("phase", "served")) == {
        "undisturbed",
        "after 100 adds",
        "after a removal",
        "1,000 adds/s",
        "compaction",
    }
    assert recorded.where("rebuild")[0]["vectors"] == 20_000
    assert recorded.where("start")[0]["rebuilds"] == 0
    assert {row["contender"] for row in recorded.where("missing")} >= {"hnswlib", "usearch", "pgvector"}
    assert recorded.where("memory")[0]["first_answer"] > 0
    assert found["metrics"]["batch_64_over_torch"] > 0
    assert "rebuild_seconds" in found["not_measured"]  # for it was no million


def test_approximate(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--quick", "--json", "--out", str(tmp_path), "--model", str(tiny_model))
    # The last cannot be told from a thousand probes.
    recalls = ("--recalls", "0.9", "0.999")
    assert main(["approximate", "--galleries", "hard", *recalls, *common]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    recorded = read_rows(Path(found["rows"]))
    (made,) = recorded.where("lists")
    assert made["at_1"] >= 0.9 and made["nprobe"] < made["nlist"] and not made["used"]
    assert recorded.values("contender", "declined") == ["approximate, recall >= 0.999"]
    exact, approximate = (
        [row["at_1"] for row in recorded.where("recall", contender=name)]
        for name in ("exact", made["contender"])
    )
    assert exact == [1.0, 1.0, 1.0]
    # Of 30 probes of a kind: three standard deviations.
    assert 0.9 - 0.17 < min(approximate[1:]) <= 1 and found["metrics"]["kept"] > -0.17
    assert len(recorded.where("search", contender=made["contender"])) == 5
