"""``settings``: what is in force, and where it comes from."""

from __future__ import annotations

import os

import typer

from voicevault.cli import render
from voicevault.cli.command import Session, add_command
from voicevault.cli.flags import FLAGS


def register(app: typer.Typer) -> None:
    add_command(app, "settings", show, shows=("*",))


def show(session: Session) -> None:
    """Show every setting as it is in force, and where it comes from.

    Each is a flag of every command, or the environment variable in brackets; the flag wins.
    """
    environment = {name.upper() for name in os.environ}
    values = session.settings.resolved()
    sources = {
        flag.setting: f"flag {flag.option}"
        if flag.setting in session.flags
        else f"environment {flag.variable}"
        if flag.variable in environment
        else "default"
        for flag in FLAGS
    }
    rows = [(name, _shown(value), sources.get(name, "from home")) for name, value in values.items()]
    session.answer(
        {name: {"value": value, "source": sources.get(name, "from home")} for name, value in values.items()},
        render.table(("setting", "value", "from"), rows),
    )
    known = {flag.variable for flag in FLAGS}
    for name in sorted(environment):
        if name.startswith("VOICEVAULT_") and name not in known:
            session.note(f"{name} is set in the environment, but there is no such setting.")


def _shown(value: object) -> str:
    if value is None:
        return "automatic"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
