"""``speakers list | show | forget | duplicates``: who is enrolled."""

from __future__ import annotations

from typing import Annotated

import typer

from voicevault.cli import render
from voicevault.cli.command import CollectionOption, Session, YesOption, add_command, add_group
from voicevault.cli.duplicates import duplicates
from voicevault.text import printable

SpeakerArgument = Annotated[
    str, typer.Argument(metavar="SPEAKER", help="The speaker's id.", show_default=False)
]


def register(app: typer.Typer) -> None:
    group = add_group(app, "speakers", "List, show, compare and forget speakers.")
    add_command(group, "list", list_speakers)
    add_command(group, "show", show)
    add_command(group, "forget", forget)
    add_command(group, "duplicates", duplicates)


def list_speakers(
    session: Session,
    collection: CollectionOption = "default",
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag", metavar="TAG", help="Only those with this tag; repeat for several.", show_default=False
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="SPEAKER", help="Only those behind this id.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many.", show_default=False)
    ] = None,
) -> None:
    """List speakers, by id."""
    with session.vault() as vault:
        found = vault.speakers(collection=collection, tags=tags or (), after=after, limit=limit)
    nobody = f"No speakers in {collection!r}. Enroll one: voicevault enroll SPEAKER FILE"
    session.answer(
        {"speakers": [render.document("Speaker", one) for one in found]},
        render.speakers(found) if found else nobody,
    )


def show(session: Session, speaker: SpeakerArgument, collection: CollectionOption = "default") -> None:
    """Show a speaker with all enrollments."""
    with session.vault() as vault:
        found = vault.speaker(speaker, collection=collection)
        enrolled = vault.enrollments(speaker, collection=collection)
    about = {
        "speaker": found.id,
        "name": found.name or "",
        "tags": ", ".join(found.tags),
        # Not under their own names: one called "tags" or "created" must not pass for what is known here.
        **{f"attribute {name}": value for name, value in found.attributes.items()},
        "created": render.when(found.created),
        "updated": render.when(found.updated),
    }
    session.answer(
        {
            **render.document("Speaker", found),
            "enrollments": [render.document("Enrollment", one) for one in enrolled],
        },
        render.fields(about),
        "",
        render.enrollments(enrolled) if enrolled else "No enrollments.",
    )


def forget(
    session: Session,
    speaker: SpeakerArgument,
    collection: CollectionOption = "default",
    enrollment: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Forget this enrollment only; the speaker stays.", show_default=False
        ),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Delete a speaker with everything known of them, or one enrollment. It cannot be undone.

    Asks first in a terminal.
    """
    what = f"speaker {speaker!r}" if enrollment is None else f"enrollment {enrollment!r} of {speaker!r}"
    with session.vault() as vault:
        vault.speaker(speaker, collection=collection)  # no question about somebody who is not there
        session.confirm(f"Forget {what} in {collection!r} for good?", yes)
        vault.forget(speaker, enrollment, collection=collection)
    session.answer(
        {"forgotten": {"speaker_id": speaker, "enrollment_id": enrollment, "collection": collection}},
        f"Forgot {printable(what)} in {collection!r}.",
    )
