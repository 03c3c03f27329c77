"""What all commands share: settings as flags, ``--json``, and errors as messages with exit codes."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from voicevault.cli.exits import HINTS, INTERRUPTED
from voicevault.cli.flags import FLAGS
from voicevault.errors import VoicevaultError
from voicevault.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from voicevault.settings import Settings
    from voicevault.vault import Vault

CollectionOption = Annotated[
    str, typer.Option("--collection", "-c", metavar="NAME", help="The collection of speakers.")
]
ThresholdOption = Annotated[
    float | None, typer.Option(metavar="COSINE", help="Accept scores from here, -1 to 1.", show_default=False)
]
ChannelOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Listen to this channel, from 0; else they are mixed.", show_default=False
    ),
]
_PREFIX = "setting_"
"""Before the parameters that are settings, so that a command may have an argument called ``model``."""

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Session:
    """One run of a command: its settings, and where its output goes.

    Answers go to stdout, as tables or (with ``--json``) as one JSON document; everything else goes to stderr.
    """

    def __init__(self, flags: Mapping[str, str | None], as_json: bool) -> None:
        self.flags = {name: value for name, value in flags.items() if value is not None}
        self.json = as_json

    @cached_property
    def settings(self) -> Settings:
        from voicevault.settings import Settings

        return Settings(**self.flags)

    def vault(self) -> Vault:
        """The open vault of these settings; the caller closes it."""
        from voicevault.vault import Vault

        return Vault.open(self.settings)

    @cached_property
    def out(self) -> Console:
        from rich.console import Console

        def gone() -> NoReturn:
            raise BrokenPipeError  # rich would end the process as a failure; `main` ends it quietly

        console = Console(highlight=False, markup=False)
        console.on_broken_pipe = gone  # type: ignore[method-assign]
        return console

    @cached_property
    def err(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, highlight=False, markup=False)

    def answer(self, document: Any, *shown: RenderableType) -> None:
        """Prints `document` where JSON is wanted, and `shown` where it is not."""
        self._answer(document, shown, indent=2)

    def line(self, document: Any, *shown: RenderableType) -> None:
        """`answer` for one of several: its JSON takes one line."""
        self._answer(document, shown, indent=None)

    def _answer(self, document: Any, shown: Sequence[RenderableType], indent: int | None) -> None:
        if self.json:
            text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)
            try:
                text.encode(sys.stdout.encoding or "utf-8")
            except UnicodeEncodeError:  # another locale, or the name of a file that is no UTF-8
                text = json.dumps(document, allow_nan=False, indent=indent)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        else:
            for one in shown:
                self.out.print(one, soft_wrap=isinstance(one, str))

    def say(self, message: str) -> None:
        """A line of the answer for people, never broken."""
        self.out.print(message, soft_wrap=True)

    def note(self, message: str) -> None:
        """A message for people, on stderr."""
        self.err.print("\n".join(map(printable, message.split("\n"))), soft_wrap=True)

    def confirm(self, question: str, yes: bool) -> None:
        """Asks in a terminal, unless `yes`; a script that names what to delete means it."""
        if not yes and sys.stdin.isatty() and not self.json:
            typer.confirm(question, abort=True, err=True)


def error_document(error: VoicevaultError) -> dict[str, Any]:
    """An error as ``--json`` shows it: code, message, facts and, where there is one, a hint."""
    document = {"code": error.code, "message": error.message, "facts": _plain(error.facts)}
    hint = HINTS.get(error.code)
    return document if hint is None or hint in error.message else {**document, "hint": hint}


def error_text(error: VoicevaultError) -> str:
    """An error as people read it: what happened, then what to try."""
    document = error_document(error)
    return f"{document['message']} [{error.code}]" + (f"\n{document['hint']}" if "hint" in document else "")


def add_command(
    app: typer.Typer, name: str, function: Callable[..., int | None], shows: Collection[str] = ()
) -> None:
    """Makes `function` a command.

    Args:
        function: Takes a `Session`, then what the command line gives; returns the exit code, None for 0. Its
            docstring is the help.
        shows: Settings whose flags the help of this command shows; ``("*",)`` is all. The others work as well.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    flags = [
        _parameter(
            _PREFIX + flag.setting,
            str | None,
            typer.Option(
                flag.option,
                metavar=flag.metavar,
                help=f"{flag.help} [{flag.variable}]",
                hidden=not (flag.common or flag.setting in shows or "*" in shows),
                rich_help_panel="Settings",
                show_default=False,
            ),
            None,
        )
        for flag in FLAGS
    ]
    as_json = _parameter("as_json", bool, typer.Option("--json", help="Answer as JSON."), False)

    def run(**given: Any) -> None:
        session = Session(
            {flag.setting: given.pop(_PREFIX + flag.setting) for flag in FLAGS}, given.pop("as_json")
        )
        try:
            code = function(session, **given)
        except VoicevaultError as error:
            code = fail(session, error)
        except KeyboardInterrupt:
            code = INTERRUPTED
        if code:
            raise typer.Exit(code)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, as_json, *flags]]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = function.__name__, _unwrapped(inspect.getdoc(function) or "")
    app.command(name)(run)


def add_group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """A command with commands of its own."""
    group = typer.Typer(help=help, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def fail(session: Session, error: VoicevaultError) -> int:
    """Shows the error; returns its exit code."""
    if session.json:
        session.line({"error": error_document(error)})  # it may follow the lines of other files
    else:
        session.note(f"Error: {error_text(error)}")
    return error.exit_code


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _unwrapped(text: str) -> str:
    """Paragraphs of one line each: the help breaks them by the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _plain(value: Any) -> Any:
    """JSON values only, whatever the facts hold."""
    return json.loads(json.dumps(value, default=str))
