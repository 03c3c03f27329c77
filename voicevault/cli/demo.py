"""``demo``: the tour with the bundled voices, told for people."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voicevault.cli import render
from voicevault.cli.command import Session, add_command
from voicevault.cli.exits import WRONG_ANSWER
from voicevault.cli.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from voicevault.demo.tour import Claim, Question
    from voicevault.settings import Settings


def register(app: typer.Typer) -> None:
    add_command(app, "demo", run)


def run(session: Session) -> int:
    """Enroll the bundled voices, serve them, ask over HTTP, show the answers.

    Works in a data folder of its own, HOME/demo, whose collection it makes anew each time; your own data stays
    untouched. Exit code 13: an answer was wrong.
    """
    from voicevault.demo import tour

    settings = tour.demo_settings(session.settings)
    known, unknown = tour.enrolled_voices(), tour.unknown_voices()
    tell = session.note if session.json else session.say
    tell(
        f"{len(known) + len(unknown)} synthetic voices come with voicevault; {len(known)} of them become known now."
    )

    tell("\n1. Enroll: four sentences of each, in bulk")
    with Progress(session.err, 4 * len(known)) as progress:
        done = tour.enroll(settings, progress.done)
    tell(f"   {done.enrolled} recordings of {done.speakers} speakers in {done.seconds:.1f} s")
    if done.rejected:
        tell(f"   WRONG: {done.rejected} recordings were rejected: {dict(done.codes)}")

    tell("\n2. Serve: voicevault serve, in a process of its own")
    with tour.server(settings) as client:
        tell(f"   {client.url} is ready")
        questions = [client.identify(voice, True) for voice in known]
        tell("\n3. Identify: a sentence of each that the server has not heard, over HTTP")
        if not session.json:
            _show_questions(session, questions)
            _show_candidates(session, questions[0])
        strangers = [client.identify(voice, False) for voice in unknown]
        tell(f"\n4. Strangers: {len(strangers)} voices that are not enrolled; the answer should be nobody")
        if not session.json:
            _show_questions(session, strangers)
        claims = [client.verify(known[0], known[0]), client.verify(known[1], known[0])]
        tell("\n5. Verify: a true claim and a false one")
        if not session.json:
            _show_claims(session, claims)

    rights = [one.right for one in (*questions, *strangers)] + [one.right for one in claims]
    wrong = rights.count(False) + done.rejected
    tell("")
    if not wrong:
        tell(f"All {len(rights)} answers are right.")
    else:
        rejected = f", and {done.rejected} recordings were rejected" if done.rejected else ""
        tell(f"WRONG: {rights.count(False)} of {len(rights)} answers{rejected}.")
    if session.json:
        session.answer(
            {
                "right": not wrong,
                "enrolled": asdict(done),
                "identifications": [_told(q, q.speaker) for q in (*questions, *strangers)],
                "verifications": [_told(c, c.claimed) for c in claims],
                "home": str(settings.home),
            }
        )
    else:
        session.say(_next_steps(session.settings, settings, known[0], unknown[0]))
    return WRONG_ANSWER if wrong else 0


def _show_questions(session: Session, questions: Sequence[Question]) -> None:
    rows = []
    for one in questions:
        # Fewer where recordings were rejected at the enrollment.
        found = [f"{best['speaker_id']} {best['score']:.2f}" for best in one.answer["candidates"][:2]]
        nearest, second = [*found, "", ""][:2]
        answer = one.answer["speaker_id"] or "nobody"
        verdict = "right" if one.right else "WRONG"
        rows.append((one.voice, answer, nearest, second, f"{1000 * one.seconds:.0f} ms", verdict))
    _indented(
        session,
        render.table(("spoken by", "answer", "nearest", "second", "took", ""), rows, numbers=("took",)),
    )


def _show_candidates(session: Session, question: Question) -> None:
    answer = question.answer
    session.say(f"\n   The candidates for {question.voice}/{question.file.name}, as the server answered:")
    _indented(session, render.candidates(answer))
    _indented(session, render.decided_by(answer["threshold"]))


def _show_claims(session: Session, claims: Sequence[Claim]) -> None:
    rows = []
    for one in claims:
        if "accepted" in one.answer:
            answer = "accepted" if one.answer["accepted"] else "rejected"
            numbers = f"{one.answer['score']:.2f}", f"{one.answer['threshold']['value']:.2f}"
        else:
            answer, numbers = "not enrolled", ("", "")
        rows.append((one.voice, one.claimed, answer, *numbers, "right" if one.right else "WRONG"))
    _indented(
        session,
        render.table(
            ("spoken by", "claims to be", "answer", "score", "threshold", ""), rows, ("score", "threshold")
        ),
    )


def _indented(session: Session, shown: RenderableType) -> None:
    """Below its heading, wrapped to the terminal."""
    from rich.padding import Padding

    session.out.print(Padding(shown, (0, 0, 0, 3), expand=False))


def _told(one: Question | Claim, expected: str | None) -> dict[str, object]:
    return {
        "file": str(one.file),
        "voice": one.voice,
        "asked": expected,
        "right": one.right,
        "answer": one.answer,
    }


def _next_steps(own: Settings, demo: Settings, speaker: str, stranger: str) -> str:
    """What to type next; the lines that name bundled recordings work as they stand."""
    from voicevault.demo.tour import recording

    command, where = _command(), _flags(demo)
    probe, unknown = (shlex.quote(_short(recording(voice, 6))) for voice in (speaker, stranger))
    url = f"http://127.0.0.1:{own.port}/v1/collections/default"
    return f"""
The demo's data lies in {_short(demo.home)}; the next demo makes it anew.

Ask it again:
  {command} identify {unknown} \\
    {where}
Ask it over HTTP; start the server in another terminal:
  {command} serve {where}
  curl --data-binary @{probe} \\
    {url}/identify
  curl --data-binary @{probe} \\
    '{url}/verify?speaker={speaker}'
Your own recordings (WAV, MP3, M4A, Opus...) go to a database of their own, in
{_short(own.home)}:
  {command} enroll ada ada-1.wav ada-2.wav
  {command} import FOLDER_OF_SPEAKERS
  {command} identify somebody.wav
  {command} --help"""


def _flags(demo: Settings) -> str:
    """What leads a command to the demo's data; more than the folder where the environment names other things."""
    from voicevault.bootstrap import model_folder
    from voicevault.errors import ModelNotFoundError
    from voicevault.settings import Settings

    flags = [f"--home {shlex.quote(_short(demo.home))}"]
    found = Settings(home=demo.home)
    if found.resolved_database_url != demo.resolved_database_url:
        flags.append(f"--database-url {shlex.quote(demo.resolved_database_url)}")
    try:
        model = str(model_folder(found))
    except ModelNotFoundError:
        model = ""
    if model != demo.model:
        flags.append(f"--model {shlex.quote(_short(Path(demo.model)))}")
    return " ".join(flags)


def _command() -> str:
    """How the reader calls this program: by name where the shell finds it, else by path."""
    called = Path(sys.argv[0])
    found = shutil.which("voicevault")
    if called.name != "voicevault" or (found and Path(found).resolve() == called.resolve()):
        return (
            "voicevault"
            if called.name == "voicevault"
            else f"{shlex.quote(_short(Path(sys.executable)))} -m voicevault"
        )
    return shlex.quote(_short(called))


def _short(path: Path) -> str:
    """The path from here where that is shorter."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
