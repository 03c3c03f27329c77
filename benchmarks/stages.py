"""The latency of every stage of an answer, and of whole answers: decode, speech detection, embed, search, SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, log_axis, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.search import make_index
from benchmarks.timing import interleaved, latency, one_thread
from benchmarks.workbench import (
    FORMATS,
    by_speaker,
    encode_audio,
    fill_gallery,
    find_recordings,
    open_database,
    speech_clip,
    synthetic_gallery,
    temporary_settings,
)
from voicevault.types import Embedding, Float32Array, Quality
from voicevault.vault import DEFAULT_COLLECTION

if TYPE_CHECKING:
    from rich.progress import Progress

    from voicevault.store import Store
    from voicevault.vault import Vault

SHORT, LONG = 3.0, 10.0
"""Seconds of speech in the clips."""
DECODE, SPEECH, EMBED, SEARCH, SQL, WHOLE = "decode", "speech", "embed", "search", "SQL", "whole"
STAGES = (DECODE, SPEECH, EMBED, SEARCH, SQL, WHOLE)
POSITION, NAMES = "position of the collection", "names of 5 candidates"
IDENTIFY = f"identify, WAV, {SHORT:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesOptions(Options):
    rounds: int = option(100, "timed calls of each stage")
    gallery: int = option(1_000, "speakers in the gallery that is searched")


def measure(options: StagesOptions, rows: Rows, progress: Progress) -> None:
    from voicevault.vault import Vault

    speakers = list(by_speaker(find_recordings(options)).values())
    task = progress.add_task("preparing", total=None)
    with temporary_settings(options, rows.path) as settings, Vault.open(settings) as vault:
        clips = {seconds: speech_clip(vault.pipeline, speakers[0], seconds) for seconds in (SHORT, LONG)}
        fill_gallery(settings, vault, options.gallery, options.seed)
        vault.enroll("own", encode_audio(clips[LONG], "WAV"))
        calls = _audio_stages(vault, clips) | _answers(vault, encode_audio(clips[SHORT], "WAV"))
        vectors = synthetic_gallery(options.gallery, vault.dim, options.seed)
        with closing(make_index(vectors)) as index, open_database(settings) as store:
            calls[SEARCH, f"{options.gallery:,} speakers"] = partial(index.search, vectors[:1], 5)
            calls |= _queries(store, vault, vectors[0])
            named = {"\t".join(names): call for names, call in calls.items()}
            progress.update(task, description="calls", total=options.rounds * len(named))
            with one_thread(), vault.pipeline.encoder.one_thread_per_call():
                for sample in interleaved(
                    named, options.rounds, seed=options.seed, warmup=2, step=lambda: progress.advance(task)
                ):
                    stage, case = sample.name.split("\t")
                    rows.append("stage", stage=stage, case=case, seconds=sample.wall, cpu=sample.cpu)


def _audio_stages(
    vault: Vault, clips: Mapping[float, Float32Array]
) -> dict[tuple[str, str], Callable[[], object]]:
    from voicevault.audio import decode
    from voicevault.audio.level import normalise

    pipeline = vault.pipeline
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in FORMATS:
        file = encode_audio(clips[SHORT], name)
        calls[DECODE, f"{name}, {SHORT:g} s"] = partial(decode, file, limits=pipeline.limits)
    for seconds, clip in clips.items():
        level = normalise(clip)
        calls[SPEECH, f"{seconds:g} s"] = partial(pipeline.detector.segments, clip)
        calls[EMBED, f"{seconds:g} s"] = partial(pipeline.encoder.embed, [level])
    return calls


def _queries(store: Store, vault: Vault, vector: Float32Array) -> dict[tuple[str, str], Callable[[], object]]:
    """The database's part: what an identification, a verification and an enrollment ask of it."""
    keys = store.snapshot(DEFAULT_COLLECTION)[1][:5].tolist()
    number = count()

    def commit() -> object:
        sha = f"{next(number):064x}"
        quality = Quality(SHORT, SHORT, -20.0, 0.0, None)
        return store.add_enrollment(
            DEFAULT_COLLECTION, "grows", Embedding(vector, vault.model_id, quality, sha, sha)
        )

    return {
        (SQL, POSITION): partial(store.position, DEFAULT_COLLECTION),
        (SQL, NAMES): partial(store.names_of, DEFAULT_COLLECTION, keys),
        (SQL, "one voiceprint"): partial(store.voiceprint, DEFAULT_COLLECTION, "own"),
        (SQL, "commit of an enrollment"): commit,
    }


def _answers(vault: Vault, file: bytes) -> dict[tuple[str, str], Callable[[], object]]:
    return {
        (WHOLE, IDENTIFY): partial(vault.identify, file, threshold=0.5),
        (WHOLE, f"verify, WAV, {SHORT:g} s"): partial(vault.verify, "own", file, threshold=0.5),
    }


def _key(stage: str, case: str) -> str:
    return "_".join(f"{stage} {case}".lower().replace(",", "").replace("(", "").replace(")", "").split())


def metrics(recorded: Recorded) -> Metrics:
    derived: dict[str, float | Unmeasured] = {}
    for stage, case in _cases(recorded):
        found = latency(recorded.values("seconds", "stage", stage=stage, case=case))
        for name in ("p50", "p95", "p99"):
            derived[f"{_key(stage, case)}_{name}_ms"] = 1e3 * getattr(found, name)
    # In CPU time: on one thread it is the latency of an idle machine, and holds on a busy one too.
    parts = [_p50(recorded, *part, "cpu") for part in _parts(recorded)]
    derived["identify_over_parts"] = _p50(recorded, WHOLE, IDENTIFY, "cpu") / sum(parts)
    sql = sum(_p50(recorded, *part, "cpu") for part in _parts(recorded) if part[0] == SQL)
    derived["sql_share"] = sql / _p50(recorded, WHOLE, IDENTIFY, "cpu")
    return derived


def _p50(recorded: Recorded, stage: str, case: str, field: str = "seconds") -> float:
    return latency(recorded.values(field, "stage", stage=stage, case=case)).p50


def _parts(recorded: Recorded) -> list[tuple[str, str]]:
    """The stages that an identification consists of."""
    (search,) = recorded.distinct("case", "stage", stage=SEARCH)
    return [
        (DECODE, f"WAV, {SHORT:g} s"),
        (SPEECH, f"{SHORT:g} s"),
        (EMBED, f"{SHORT:g} s"),
        (SEARCH, search),
        (SQL, POSITION),  # asked twice: for the model's sake, and by the index
        (SQL, POSITION),
        (SQL, NAMES),
    ]


def tables(recorded: Recorded) -> list[Table]:
    lines = []
    for stage, case in _cases(recorded):
        found = recorded.where("stage", stage=stage, case=case)
        times = latency([1e3 * row["seconds"] for row in found])
        cpu = latency([1e3 * row["cpu"] for row in found]).p50
        lines.append((f"{stage}: {case}", times.p50, times.p95, times.p99, cpu, times.count))
    return [
        Table(
            "Latency of the stages on one core, milliseconds",
            ("stage", "p50", "p95", "p99", "CPU (p50)", "calls"),
            lines,
        )
    ]


def _cases(recorded: Recorded) -> list[tuple[str, str]]:
    """Stage and case, in the order of a request."""
    return [(s, c) for s in STAGES for c in sorted(recorded.distinct("case", "stage", stage=s))]


def plot(recorded: Recorded, path: Path) -> None:
    lines = _cases(recorded)
    figure, (axes,) = new_figure(8.4, 0.8 + 0.27 * len(lines))
    colors = dict(zip(STAGES, COLORS, strict=False))
    for place, (stage, case) in enumerate(reversed(lines)):
        times = sorted(1e3 * t for t in recorded.values("seconds", "stage", stage=stage, case=case))
        found = latency(times)
        axes.plot([found.p50, found.p99], [place, place], color=colors[stage], linewidth=2, alpha=0.4)
        axes.plot(found.p50, place, "o", color=colors[stage], markersize=7)
        axes.plot(found.p95, place, "|", color=colors[stage], markersize=10)
        axes.annotate(f"{found.p50:.3g}", (found.p50, place), (-7, 0), textcoords="offset points",
                      ha="right", va="center", fontsize=8, color=INK)  # fmt: skip
    axes.set_yticks(range(len(lines)), [f"{stage}: {case}" for stage, case in reversed(lines)])
    log_axis(axes, "x")
    axes.margins(x=0.1)
    axes.set_xlabel("Milliseconds: median (dot), 95 % (stroke), 99 % (end of the line)")
    axes.set_title("Latency of the stages on one core", loc="left", color=INK)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="stages",
    summary="latency of decoding, speech detection, embedding, search and SQL, and of whole answers",
    options=StagesOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        Bound(
            name="speech detection of 3 s",
            metric="speech_3_s_p50_ms",
            at_most=8.0,
            unit="ms",
            why="the network takes 5 to 6 ms on one core",
        ),
        Bound(
            name="embedding of 3 s",
            metric="embed_3_s_p50_ms",
            at_most=25.0,
            unit="ms",
            why="what the default model was sized for",
        ),
        Bound(
            name="CPU time of an identification beside its stages",
            metric="identify_over_parts",
            at_most=1.2,
            unit="x",
            why="hashes, levels and records cost little",
        ),
        Bound(
            name="share of SQL in an identification",
            metric="sql_share",
            at_most=0.2,
            unit="",
            why="three short reads beside a network",
        ),
    ),
    quick={"rounds": 5, "gallery": 100},
)
