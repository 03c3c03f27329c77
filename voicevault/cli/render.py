"""Answers as tables and lines for people, and as the documents that HTTP gives too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from voicevault.errors import DuplicateRecordingError
from voicevault.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from voicevault.types import (
        Collection,
        Enrollment,
        Identification,
        ImportSummary,
        Speaker,
        Verification,
    )


def document(kind: str, record: Any) -> dict[str, Any]:
    """A record as the HTTP service shows it; `kind` names the schema."""
    from voicevault.service import schemas

    shown: dict[str, Any] = getattr(schemas, kind).model_validate(record).model_dump(mode="json")
    return shown


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> Table:
    """A table; the columns in `numbers` are set flush right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(printable("" if cell is None else cell) for cell in row))
    return made


def called(speaker_id: str, name: str | None) -> str:
    """A speaker in a sentence."""
    return printable(f"{speaker_id} ({name})" if name and name != speaker_id else speaker_id)


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def when(moment: datetime) -> str:
    """A moment in local time, to the minute."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def decided_by(threshold: Mapping[str, Any]) -> str:
    """What a decision was taken by, as a sentence; from the document of a threshold."""
    value, rate = threshold["value"], threshold["fmr"]
    if threshold["source"] == "given":
        text = f"Accepted from a score of {value:.3f}, as given."
    elif rate is None:
        text = f"Accepted from a score of {value:.3f}."
    else:
        text = f"Accepted from a score of {value:.3f}, a false match rate of {rate:.2g} per comparison."
    return text + (f" {threshold['note']}" if threshold["note"] else "")


def identification(file: str, answer: Identification) -> str:
    """The answer in one line."""
    best = answer.candidates[0] if answer.candidates else None
    how = ""
    if (found := answer.approximate) is not None:
        how = f" (approximate search: recall@1 {found.recall_at_1:.3f}, recall@10 {found.recall_at_10:.3f})"
    if answer.speaker_id is not None and best is not None:
        return f"{printable(file)}: {called(best.speaker_id, best.name)}, score {best.score:.3f}{how}"
    nearest = f"; nearest {called(best.speaker_id, best.name)}, score {best.score:.3f}" if best else ""
    return f"{printable(file)}: nobody in {answer.collection!r} ({count(answer.gallery, 'speaker')}){nearest}{how}"


def candidates(answer: Mapping[str, Any]) -> Table:
    """The nearest speakers, best first; from the document of an identification."""
    rows = [
        (c["rank"], c["speaker_id"], c["name"], f"{c['score']:.3f}", "yes" if c["accepted"] else "no")
        for c in answer["candidates"]
    ]
    return table(("rank", "speaker", "name", "score", "accepted"), rows, numbers=("rank", "score"))


def verification(file: str, answer: Verification) -> str:
    """The answer in one line."""
    verdict = "accepted" if answer.accepted else "REJECTED"
    return f"{printable(file)}: {verdict} as {printable(answer.speaker_id)}, score {answer.score:.3f}"


def speakers(found: Sequence[Speaker]) -> Table:
    rows = [(s.id, s.name, ", ".join(s.tags), s.enrollments, when(s.updated)) for s in found]
    return table(("speaker", "name", "tags", "enrollments", "updated"), rows, numbers=("enrollments",))


def enrollments(found: Sequence[Enrollment]) -> Table:
    rows = [
        (e.id, e.source_name, f"{e.quality.speech_seconds:.1f} s", _db(e.quality.snr_db), when(e.created))
        for e in found
    ]
    return table(("enrollment", "file", "speech", "SNR", "created"), rows, numbers=("speech", "SNR"))


def collections(found: Sequence[Collection]) -> Table:
    rows = [(c.name, c.speakers, c.generation, c.model_id[:12], when(c.created)) for c in found]
    return table(
        ("collection", "speakers", "generation", "model", "created"), rows, numbers=("speakers", "generation")
    )


def fields(values: Mapping[str, object]) -> Table:
    """Names and values, one pair a line."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    for name, value in values.items():
        made.add_row(name, printable(value))
    return made


def summary(done: ImportSummary) -> Table:
    """What became of the recordings of an import: by outcome, and by code where they were rejected."""
    rows: list[tuple[str, object, str]] = [("enrolled", done.enrolled, "")]
    if done.skipped:
        rows.append(("skipped", done.skipped, "enrolled already"))
    rows += [
        ("rejected", count, code)
        for code, count in sorted(done.codes.items(), key=lambda one: -one[1])
        if code != DuplicateRecordingError.code  # those are the skipped
    ]
    return table(("outcome", "recordings", "why"), rows, numbers=("recordings",))


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} dB"
