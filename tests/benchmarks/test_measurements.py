"""Every benchmark in its quick mode, on the bundled voices and a small model: what the rows hold, and what follows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.command import main
from benchmarks.rows import Recorded, read_rows
from benchmarks.serving import post_all, running_server
from benchmarks.workbench import FORMATS, encode_audio
from voicevault.audio import decode
from voicevault.cores import available_cores
from voicevault.errors import VoicevaultError
from voicevault.scoring.metrics import equal_error_rate
from voicevault.settings import Settings
from voicevault.types import SAMPLE_RATE

Run = tuple[Any, Recorded]


@pytest.fixture
def measured(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """(arguments) -> the JSON results and the rows of a quick run; the user's own vault stays untouched."""
    own = tmp_path / "own"
    monkeypatch.setenv("VOICEVAULT_HOME", str(own))
    monkeypatch.setenv("VOICEVAULT_DATABASE_URL", f"sqlite:///{own / 'mine.db'}")

    def run(*arguments: str) -> Run:
        out = tmp_path / "out"
        common = ("--quick", "--json", "--out", str(out), "--model", str(tiny_model))
        assert main([*arguments, *common]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert not own.exists()
        assert sorted(path.suffix for path in out.iterdir()) == [".jsonl", ".md", ".png"]
        assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG\r\n")
        return found, read_rows(Path(found["rows"]))

    return run


def test_stages(measured: Any) -> None:
    found, recorded = measured("stages", "--rounds", "2")
    stages = recorded.distinct("stage", "stage")
    assert set(stages) == {"decode", "speech", "embed", "search", "SQL", "whole"}
    cases = [(s, c) for s in stages for c in recorded.distinct("case", "stage", stage=s)]
    assert all(len(recorded.where("stage", stage=s, case=c)) == 2 for s, c in cases)
    assert len([s for s, _ in cases if s == "decode"]) == len(FORMATS)
    metrics = found["metrics"]
    assert 0 < metrics["speech_3_s_p50_ms"] <= metrics["speech_3_s_p95_ms"] <= metrics["speech_3_s_p99_ms"]
    for whole in recorded.values("seconds", "stage", stage="whole"):
        assert whole > min(recorded.values("seconds", "stage", stage="embed", case="3 s"))
    assert found["run"]["model"]["name"] == "tiny"


def test_http(measured: Any) -> None:
    found, recorded = measured("http", "--clients", "1", "3", "--requests", "6")
    for operation in ("identify", "verify"):
        for clients in (1, 3):
            requests = recorded.where("request", operation=operation, clients=clients)
            assert len(requests) == 6
            for row in requests:
                timing = row["timing"]
                assert (
                    0
                    < timing["decode"] + timing["speech"] + timing["embed"]
                    <= timing["total"]
                    <= row["seconds"]
                )
            (series,) = recorded.where("series", operation=operation, clients=clients)
            assert found["metrics"][f"{operation}_{clients}_per_second"] == 6 / series["seconds"]
        assert len(recorded.where("direct", operation=operation)) == 6
    assert found["metrics"]["http_over_vault"] >= 1.0
    assert found["metrics"]["http_cpu_over_vault"] > 0
    assert "busy_cores" in found["not_measured"]  # too few requests to speak of it


def test_bulk(measured: Any) -> None:
    found, recorded = measured("bulk", "--recordings", "16", "--sample", "8", "--batch", "4")
    (sample,) = recorded.where("sample")
    (imported,) = recorded.where("import")
    assert sample["recordings"] + sample["refused"] == 8
    assert imported["recordings"] >= 16
    metrics = found["metrics"]
    assert metrics["bulk_per_second"] == imported["recordings"] / imported["seconds"]
    cpu = [row["cpu"] / row["recordings"] for row in recorded.where("stage")]
    assert len(cpu) == 4
    assert metrics["ideal_per_second"] == pytest.approx(available_cores() / sum(cpu))
    crowded = recorded.where("crowded")
    assert Counter(row["stage"] for row in crowded) == dict.fromkeys(
        ("decode", "speech", "embed"), available_cores()
    )
    assert all(row["cpu"] > 0 for row in crowded) and metrics["crowded_per_second"] > 0
    assert metrics["bulk_cpu_ms"] == pytest.approx(1e3 * imported["cpu"] / imported["recordings"])
    assert metrics["bulk_cpu_ms"] > 1e3 * sum(cpu) / 2  # the decoding processes are counted too
    assert metrics["bulk_over_encoder"] == pytest.approx(
        metrics["bulk_per_second"] / metrics["encoder_per_second"]
    )
    done = recorded.values("recordings", "imported")
    assert done == list(range(4, imported["recordings"] + 1, 4))


def test_search(measured: Any) -> None:
    found, recorded = measured("search", "--sizes", "300", "1000", "--rounds", "3", "--dim", "32")
    assert found["metrics"]["recall"] == 1.0
    assert found["run"]["model"] is None
    assert len(recorded.where("search")) == 2 * 3 * len(recorded.distinct("contender", "search"))
    assert {bound["outcome"] for bound in found["bounds"]} == {"pass", "not measured"}


def test_encoders(measured: Any) -> None:
    pytest.importorskip("speechbrain", reason="speechbrain is not installed")
    from benchmarks.encoders import BARE, CASES, FP32, FRONT_END, INT8, PEER

    found, recorded = measured("encoders", "--widths", "32", "--rounds", "2")
    for case in CASES:
        ours, int8, theirs = (
            recorded.values("lowest", "cosine", case=case, contender=name)[0] for name in (FP32, INT8, PEER)
        )
        assert ours >= 0.9999
        assert 0.9 < int8 < 1 - 1e-5
        assert theirs >= 0.9999 or case == CASES[2], "only its batches change its answers"
        contenders = recorded.distinct("contender", "call", case=case)
        assert set(contenders) == {PEER, FP32, INT8, f"{BARE} {FP32}", f"{BARE} {INT8}", FRONT_END}
        assert all(seconds > 0 for seconds in recorded.values("seconds", "call", case=case))
    assert found["metrics"]["default_engine_ms"] > 0
    assert {bound["outcome"] for bound in found["bounds"]} <= {"pass", "fail", "not measured"}


def test_accuracy(measured: Any, tiny_model: Path, tmp_path: Path) -> None:
    from benchmarks.workbench import bundled_voices
    from voicevault import Vault

    found, recorded = measured("accuracy")
    trials = recorded.where("trial")
    assert found["metrics"]["trials"] == len(trials) == 18 * 17 / 2
    scores, labels = ([row[name] for row in trials] for name in ("score", "label"))
    assert found["metrics"]["eer"] == equal_error_rate(scores, labels)[0]
    assert {"fmr_1pct_fmr", "fmr_1pct_fnmr"} <= found["metrics"].keys()
    database = f"sqlite:///{tmp_path / 'vault.db'}"
    with Vault.open(Settings(home=tmp_path, database_url=database, model=str(tiny_model))) as vault:
        enroll, test = (vault.embed(bundled_voices() / trials[0][side]).vector for side in ("enroll", "test"))
    assert trials[0]["score"] == pytest.approx(float(enroll @ test), abs=1e-5)


def test_every_format_is_what_it_says() -> None:
    samples = (0.3 * np.sin(np.arange(SAMPLE_RATE) * 0.1)).astype(np.float32)
    found = {name: decode(encode_audio(samples, name)) for name in FORMATS}
    for name, waveform in found.items():
        assert waveform.seconds == pytest.approx(1.0, abs=0.1), name
        assert np.abs(waveform.samples).max() == pytest.approx(0.3, abs=0.06), name
    assert found["WAV 48 kHz"].source_rate == 48_000
    assert len({waveform.format for waveform in found.values()}) == len(FORMATS)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tmp_path / "no model"))
    with pytest.raises(VoicevaultError, match="no model"), running_server(settings):
        pass


def test_a_refusing_server_ends_the_measurement(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model))
    with running_server(settings) as server, pytest.raises(VoicevaultError, match="404"):
        post_all(server, [("/v1/collections/none/identify", b"x")] * 3, 2)


def test_corpus(measured: Any) -> None:
    found, recorded = measured("corpus", "--enroll", "4", "--strangers", "3")
    assert recorded.where("import")[0]["speakers"] == 12
    probes = recorded.where("probe")
    assert len(probes) == 12 * 2 + 3 * 6
    assert sum(not row["known"] for row in probes) == 3 * 6
    own = [row for row in probes if row["known"]]
    assert found["metrics"]["rank_1"] == sum(r["candidates"][0] == r["speaker"] for r in own) / len(own)
    assert found["metrics"]["rank_5"] >= found["metrics"]["rank_1"] > 1 / 12
    named = sum(row["answer"] is not None for row in probes if not row["known"])
    assert found["metrics"]["strangers_named"] == named / 18
