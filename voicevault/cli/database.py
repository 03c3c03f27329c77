"""``db upgrade``: the schema of the database."""

from __future__ import annotations

import typer

from voicevault.cli.command import Session, add_command, add_group


def register(app: typer.Typer) -> None:
    group = add_group(app, "db", "Look after the database.")
    add_command(group, "upgrade", upgrade)


def upgrade(session: Session) -> None:
    """Bring the database to the schema of this release; does nothing where it is there already."""
    from voicevault.bootstrap import upgrade_database
    from voicevault.settings import masked

    before, after = upgrade_database(session.settings)
    url = masked(session.settings.resolved_database_url)
    changed = before != after
    session.answer(
        {"database_url": url, "before": before, "after": after, "changed": changed},
        f"{url}: upgraded from {before or 'an empty database'} to {after}."
        if changed
        else f"{url}: at {after}, nothing to do.",
    )
