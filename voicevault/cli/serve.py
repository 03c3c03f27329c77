"""``serve``: the HTTP service."""

from __future__ import annotations

import typer

from voicevault.cli.command import Session, add_command


def register(app: typer.Typer) -> None:
    add_command(app, "serve", run, shows=("host", "port", "allowed_hosts", "concurrency", "queue", "threads"))


def run(session: Session) -> None:
    """Answer over HTTP until SIGINT or SIGTERM: on loopback, unless --host says otherwise.

    Prints the address when it is ready to be asked.
    """
    from voicevault.service.server import serve

    serve(session.settings, lambda url: session.line({"url": url}, f"voicevault listens on {url}"))
