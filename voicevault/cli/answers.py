"""``identify`` and ``verify``: who is it, and is it them?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voicevault.cli import render
from voicevault.cli.command import (
    ChannelOption,
    CollectionOption,
    Session,
    ThresholdOption,
    add_command,
)
from voicevault.cli.exits import NOBODY, REJECTED
from voicevault.cli.recordings import FileArgument, FilesArgument, each


def register(app: typer.Typer) -> None:
    add_command(app, "identify", identify, shows=("min_probe_speech",))
    add_command(app, "verify", verify, shows=("min_probe_speech",))


def identify(
    session: Session,
    files: FilesArgument,
    collection: CollectionOption = "default",
    k: Annotated[int, typer.Option("--top", "-k", metavar="N", help="Candidates to name.")] = 5,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Only among speakers with this tag; repeat for several.",
            show_default=False,
        ),
    ] = None,
    threshold: ThresholdOption = None,
    fmr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Or accept at this false match rate of one comparison; by default 0.01 over the number of speakers.",
            show_default=False,
        ),
    ] = None,
    channel: ChannelOption = None,
) -> int:
    """Say who is speaking, or that it is nobody in the collection.

    One file gets a table of candidates, several get a line each; --json prints one line of JSON per file. Exit code 11:
    some file is of nobody in the collection.
    """
    with session.vault() as vault:

        def ask(file: str, source: Path | bytes) -> int:
            answer = vault.identify(
                source,
                collection=collection,
                k=k,
                threshold=threshold,
                fmr=fmr,
                tags=tags or (),
                channel=channel,
            )
            document = render.document("Identification", answer)
            details = ("", render.candidates(document), render.decided_by(document["threshold"]))
            shown = (render.identification(file, answer), *(details if len(files) == 1 else ()))
            session.line({"file": file, **document}, *shown)
            return 0 if answer.speaker_id is not None else NOBODY

        return each(session, files, ask)


def verify(
    session: Session,
    speaker: Annotated[
        str, typer.Argument(metavar="SPEAKER", help="Who it is said to be.", show_default=False)
    ],
    file: FileArgument,
    collection: CollectionOption = "default",
    threshold: ThresholdOption = None,
    fmr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Or accept at this false match rate; by default 0.01.", show_default=False
        ),
    ] = None,
    channel: ChannelOption = None,
) -> int:
    """Check a claimed identity.

    Exit code 0: accepted; 10: rejected.
    """
    with session.vault() as vault:

        def ask(file: str, source: Path | bytes) -> int:
            answer = vault.verify(
                speaker, source, collection=collection, threshold=threshold, fmr=fmr, channel=channel
            )
            document = render.document("Verification", answer)
            shown = (render.verification(file, answer), render.decided_by(document["threshold"]))
            session.line({"file": file, **document}, *shown)
            return 0 if answer.accepted else REJECTED

        return each(session, [file], ask)
