"""The commands put together, and the process around them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, NoReturn

import typer

from voicevault import __version__
from voicevault.cli import (
    answers,
    collections,
    database,
    demo,
    enrollment,
    models,
    serve,
    settings,
    speakers,
    streams,
)
from voicevault.cli.exits import EXIT_CODES, INTERRUPTED

PARTS = (enrollment, answers, speakers, collections, models, serve, database, settings, demo)
"""The modules with commands, in the order of ``--help``; each has ``register(app)``."""

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="voicevault",
        help="A self-hosted speaker database: enroll voices, identify who is speaking, verify a claim.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        """A self-hosted speaker database: enroll voices, identify who is speaking, verify a claim."""

    for part in PARTS:
        part.register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voicevault {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """The console script: runs the command line and exits with a documented code."""
    streams.mend()
    try:
        code = make_app()(standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        streams.let_go(sys.stdout)  # whoever read our output has seen enough
        code = 0
    except Exception as error:
        code = _usage(error) if hasattr(error, "format_message") else streams.unexpected(error)
    sys.exit(code or 0)


def _usage(error: Exception) -> int:
    """What was typed is no command; Typer's own exceptions have no public base, but all can show themselves."""
    if "--json" in sys.argv:
        message = error.format_message()  # type: ignore[attr-defined]
        print(json.dumps({"error": {"code": "INVALID_REQUEST", "message": message, "facts": {}}}))
    else:
        error.show()  # type: ignore[attr-defined]
    return getattr(error, "exit_code", 2)
