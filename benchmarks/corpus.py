"""The main job, whole: a corpus is enrolled in bulk, and every other recording of its speakers is identified over HTTP."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.serving import RunningServer, post_all, running_server
from benchmarks.workbench import by_speaker, find_recordings, temporary_settings
from voicevault.errors import RequestError, VoicevaultError
from voicevault.types import ManifestRow

if TYPE_CHECKING:
    from rich.progress import Progress

RANKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions(Options):
    enroll: int = option(5, "recordings of each speaker that are enrolled: the first by name")
    strangers: int = option(0, "so many speakers are not enrolled, and should come out as nobody", least=0)
    min_speech: float = option(0.5, "seconds of speech below which a probe is refused", least=0.01)


def measure(options: CorpusOptions, rows: Rows, progress: Progress) -> None:
    from voicevault.vault import Vault

    speakers = by_speaker(sorted(find_recordings(options), key=lambda row: row.path))
    names = sorted(speakers)
    known = set(names[: len(names) - options.strangers])
    enrolled = [row for name in names if name in known for row in speakers[name][: options.enroll]]
    probes = [
        row
        for name in names
        for row in (speakers[name][options.enroll :] if name in known else speakers[name])
    ]
    if not enrolled or not probes:
        raise RequestError(
            f"Nothing is left to identify when {options.enroll} recordings of each speaker are enrolled.",
            speakers=len(names),
        )
    with temporary_settings(options, rows.path, min_probe_speech=options.min_speech) as settings:
        with Vault.open(settings) as vault:
            task = progress.add_task("enrolling", total=len(enrolled))
            summary = vault.enroll_many(enrolled, progress=lambda _: progress.advance(task))
        rows.append(
            "import", recordings=summary.recordings, enrolled=summary.enrolled, rejected=summary.rejected,
            speakers=summary.speakers, seconds=summary.seconds, codes=dict(summary.codes),
        )  # fmt: skip
        with running_server(settings) as server:
            usable = _identify(server, probes, known, rows, progress)
    if not usable:
        raise RequestError("None of the probes holds enough speech.", probes=len(probes))


def _identify(
    server: RunningServer, probes: list[ManifestRow], known: set[str], rows: Rows, progress: Progress
) -> int:
    """Asks for each probe and notes what the server answered; returns how many it answered."""
    usable = 0
    for row in progress.track(probes, description="identifying"):
        request = (f"/v1/collections/default/identify?k={RANKS}", row.path.read_bytes())
        try:
            (call,), _ = post_all(server, [request], 1)
        except VoicevaultError as error:
            rows.append("refused", speaker=row.speaker, path=str(row.path), message=error.message[:300])
            continue
        usable += 1
        rows.append(
            "probe", speaker=row.speaker, path=str(row.path), known=row.speaker in known,
            candidates=[candidate["speaker_id"] for candidate in call.answer["candidates"]],
            scores=[candidate["score"] for candidate in call.answer["candidates"]],
            answer=call.answer["speaker_id"], threshold=call.answer["threshold"]["value"], seconds=call.seconds,
        )  # fmt: skip
    return usable


def metrics(recorded: Recorded) -> Metrics:
    probes = recorded.where("probe")
    own = [row for row in probes if row["known"]]
    others = [row for row in probes if not row["known"]]
    (imported,) = recorded.where("import")
    derived: dict[str, float | Unmeasured] = {
        "import_per_second": imported["recordings"] / imported["seconds"],
        "probes": len(probes),
        "refused": len(recorded.where("refused")),
        "rank_1": sum(row["candidates"][:1] == [row["speaker"]] for row in own) / len(own),
        f"rank_{RANKS}": sum(row["speaker"] in row["candidates"] for row in own) / len(own),
        "named_right": sum(row["answer"] == row["speaker"] for row in own) / len(own),
        "named_wrong": sum(row["answer"] not in (None, row["speaker"]) for row in own) / len(own),
    }
    none = Unmeasured("every speaker is enrolled; --strangers keeps some out")
    derived["strangers_named"] = (
        sum(row["answer"] is not None for row in others) / len(others) if others else none
    )
    return derived


def tables(recorded: Recorded) -> list[Table]:
    derived, (imported,) = metrics(recorded), recorded.where("import")
    codes = ", ".join(f"{count} {code}" for code, count in sorted(imported["codes"].items()))
    thresholds = Counter(round(row["threshold"], 4) for row in recorded.where("probe"))

    def percent(value: float | Unmeasured) -> str:
        return value.reason if isinstance(value, Unmeasured) else f"{value:.2%}"

    return [
        Table(
            "A corpus enrolled in bulk, the rest of it identified over HTTP",
            ("what", "value"),
            [
                ("recordings enrolled", f"{imported['enrolled']:,} of {imported['recordings']:,}"),
                ("rejected", codes or "none"),
                ("speakers in the gallery", imported["speakers"]),
                ("recordings/s, start of the processes included", derived["import_per_second"]),
                ("probes answered", derived["probes"]),
                ("probes refused", derived["refused"]),
                ("rank 1", percent(derived["rank_1"])),
                (f"among the first {RANKS}", percent(derived[f"rank_{RANKS}"])),
                ("named, and rightly", percent(derived["named_right"])),
                ("named, and wrongly", percent(derived["named_wrong"])),
                ("strangers named", percent(derived["strangers_named"])),
                ("threshold of the decisions", ", ".join(f"{value:g}" for value in sorted(thresholds))),
            ],
        )
    ]


def plot(recorded: Recorded, path: Path) -> None:
    figure, (axes,) = new_figure(7.2, 4.2)
    right: list[float] = []
    wrong: list[float] = []
    for row in recorded.where("probe"):
        for candidate, score in zip(row["candidates"], row["scores"], strict=True):
            (right if candidate == row["speaker"] else wrong).append(score)
    bins = [place / 40 for place in range(-16, 41)]
    axes.hist(
        wrong, bins, color=COLORS[1], alpha=0.6, label="candidates that are somebody else", density=True
    )
    axes.hist(right, bins, color=COLORS[0], alpha=0.6, label="the speaker's own voiceprint", density=True)
    for value in {round(row["threshold"], 4) for row in recorded.where("probe")}:
        axes.axvline(value, color=INK, linewidth=1.0, linestyle="--")
    axes.set_xlabel("Cosine of probe and voiceprint; dashed: the decision's threshold")
    axes.set_ylabel("Density")
    axes.legend(frameon=False)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="corpus",
    summary="a corpus enrolled in bulk, then every other recording of it identified over HTTP",
    options=CorpusOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(),
    quick={},
)
