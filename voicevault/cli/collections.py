"""``collections list | create | delete``: galleries, each bound to one model."""

from __future__ import annotations

from typing import Annotated

import typer

from voicevault.cli import render
from voicevault.cli.command import Session, YesOption, add_command, add_group
from voicevault.text import printable

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The collection's name.", show_default=False)
]


def register(app: typer.Typer) -> None:
    group = add_group(app, "collections", "List, create and delete collections of speakers.")
    add_command(group, "list", list_collections)
    add_command(group, "create", create)
    add_command(group, "delete", delete)


def list_collections(session: Session) -> None:
    """List collections, by name."""
    with session.vault() as vault:
        found = vault.collections()
    session.answer(
        {"collections": [render.document("Collection", one) for one in found]}, render.collections(found)
    )


def create(
    session: Session,
    name: NameArgument,
    keep_audio: Annotated[
        bool,
        typer.Option(
            "--keep-audio",
            help="Keep the speech of enrollments in the database, so that a change of the model needs no new ones.",
        ),
    ] = False,
) -> None:
    """Make an empty collection for the model in use."""
    with session.vault() as vault:
        made = vault.create_collection(name, keep_audio=keep_audio)
        model = vault.encoder_name
    session.answer(
        render.document("Collection", made),
        f"Made {printable(name)!r} for model {printable(model)}. Use it with --collection {name}",
    )


def delete(session: Session, name: NameArgument, yes: YesOption = False) -> None:
    """Delete a collection with all its speakers. It cannot be undone.

    Asks first in a terminal.
    """
    with session.vault() as vault:
        there, twins = vault.collection(name), vault.twins(name)
        session.confirm(f"Delete {name!r} with its {render.count(there.speakers, 'speaker')} for good?", yes)
        vault.delete_collection(name)
    session.answer(
        {"deleted": {"collection": name, "speakers": there.speakers}, "left": twins},
        f"Deleted {name!r} with its {render.count(there.speakers, 'speaker')}.",
        *(f"The same speakers on another model are still in {printable(twin)!r}." for twin in twins),
    )
