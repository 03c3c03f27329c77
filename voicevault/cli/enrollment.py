"""``enroll`` and ``import``: recordings become voiceprints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from voicevault.cli import render
from voicevault.cli.command import ChannelOption, CollectionOption, Session, add_command
from voicevault.cli.exits import PARTIAL
from voicevault.cli.recordings import STDIN, FilesArgument, each
from voicevault.errors import RequestError, SpeakerNotFoundError
from voicevault.text import printable


class Duplicates(StrEnum):
    """What to do with a recording that its speaker has already (known by the SHA-256 of the file)."""

    ERROR = "error"
    SKIP = "skip"
    REPLACE = "replace"
    ADD = "add"


class ImportDuplicates(StrEnum):
    SKIP = "skip"
    REPLACE = "replace"
    ADD = "add"


_DUPLICATES_HELP = "What to do with a recording that the speaker has already."


def register(app: typer.Typer) -> None:
    add_command(app, "enroll", enroll, shows=("min_enroll_speech",))
    add_command(app, "import", import_corpus, shows=("min_enroll_speech", "workers"))


def enroll(
    session: Session,
    speaker: Annotated[
        str,
        typer.Argument(metavar="SPEAKER", help="The speaker's id; made where it is new.", show_default=False),
    ],
    files: FilesArgument,
    collection: CollectionOption = "default",
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Set the display name.", show_default=False)
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="Add a tag; repeat for several.", show_default=False),
    ] = None,
    attributes: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute",
            metavar="NAME=VALUE",
            help="Set an attribute; repeat for several.",
            show_default=False,
        ),
    ] = None,
    duplicates: Annotated[Duplicates, typer.Option(help=_DUPLICATES_HELP)] = Duplicates.ERROR,
    create: Annotated[
        bool, typer.Option("--create/--no-create", help="Make the speaker where there is none.")
    ] = True,
    channel: ChannelOption = None,
) -> int:
    """Add recordings to a speaker's voiceprint.

    A recording that cannot be used is named and does not stop the others. --json prints one line of JSON per file.
    """
    from voicevault.types import DuplicatePolicy

    more = _attributes(attributes or [])
    policy = None if duplicates is Duplicates.ERROR else DuplicatePolicy(duplicates.value)
    with session.vault() as vault:
        vault.check_speaker(
            name=name or None, tags=tags or (), attributes=more
        )  # before anything is enrolled

        def add(file: str, source: Path | bytes) -> None:
            done = vault.enroll(
                speaker,
                source,
                collection=collection,
                create=create,
                channel=channel,
                duplicates=policy,
                source_name="stdin" if file == STDIN else None,
            )
            session.line(
                {"file": file, **render.document("Enrollment", done)},
                f"{printable(file)}: enrolled for {printable(speaker)},"
                f" {done.quality.speech_seconds:.1f} s of speech (enrollment {done.id})",
            )

        code = each(session, files, add)
        if name is not None or tags or more:
            with suppress(SpeakerNotFoundError):  # none of the recordings could be used, which is told by now
                named = {} if name is None else {"name": name or None}
                vault.update_speaker(
                    speaker, collection=collection, tags=tags or (), attributes=more, add=True, **named
                )
    return code


def import_corpus(
    session: Session,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST_OR_FOLDER",
            help="A folder speaker/recording, or a .tsv, .csv or .jsonl file with path and speaker"
            " (further columns: name, tags, any attributes).",
            show_default=False,
        ),
    ],
    collection: CollectionOption = "default",
    duplicates: Annotated[ImportDuplicates, typer.Option(help=_DUPLICATES_HELP)] = ImportDuplicates.SKIP,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write a line per recording (.tsv or .jsonl); by default in HOME/imports.",
            show_default=False,
        ),
    ] = None,
    audio_root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="What paths in the manifest start from; else its folder.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Recordings per transaction.")] = 32,
) -> int:
    """Enroll a whole corpus.

    Can be interrupted and run again: it skips what is enrolled. Exit code 12: some recordings were rejected; the results
    file tells why.
    """
    from voicevault.bulk import refuse_overwriting
    from voicevault.cli.progress import Progress
    from voicevault.manifest import loose_recordings, read_corpus
    from voicevault.types import DuplicatePolicy

    if results is not None:
        refuse_overwriting(results, source)
    rows, loose = read_corpus(source, audio_root), loose_recordings(source)
    if loose:
        session.err.print(
            f"{render.count(len(loose), 'file')} beside the speakers' folders, such as {printable(loose[0].name)}:"
            " nobody's, so left out.",
            markup=False,
        )
    with session.vault() as vault:
        told = results or _results_file(session.settings.home, source)
        with Progress(session.err, len(rows)) as progress:
            done = vault.enroll_many(
                rows,
                collection=collection,
                duplicates=DuplicatePolicy(duplicates.value),
                batch=batch,
                results=told,
                progress=progress.done,
            )
    speed = f" ({done.audio_seconds / done.seconds:.0f} times real time)" if done.audio_seconds else ""
    session.answer(
        {**asdict(done), "loose": len(loose), "results": str(told), "collection": collection},
        f"{render.count(done.recordings, 'recording')} of {render.count(done.speakers, 'speaker')}"
        f" in {done.seconds:.1f} s{speed}",
        "",
        render.summary(done),
        f"A line per recording: {printable(told)}",
    )
    return PARTIAL if done.rejected else 0


def _attributes(pairs: list[str]) -> Mapping[str, Any]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"--attribute takes NAME=VALUE, not {pair!r}.", attribute=pair)
        found[key] = value
    return found


def _results_file(home: Path, source: Path) -> Path:
    from voicevault.bootstrap import make_folder

    folder = home / "imports"
    make_folder(folder)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")  # two imports at once have a file each
    return folder / f"{moment}-{source.absolute().stem}.tsv"
