"""The command line in this process, with a data folder and a small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from voicevault.cli.app import make_app
from voicevault.demo.tour import recording


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document; fails where anything else stands there."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


def runner(home: Path, model: Path) -> Run:
    """Runs command lines against a data folder."""
    app = make_app()
    environment = {"VOICEVAULT_HOME": str(home), "VOICEVAULT_MODEL": str(model), "COLUMNS": "100"}

    def call(*arguments: object, stdin: bytes | None = None) -> Result:
        done = CliRunner().invoke(app, [str(one) for one in arguments], input=stdin, env=environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    """Runs a command line against a fresh data folder, ``home`` in `tmp_path`."""
    return runner(tmp_path / "home", tiny_model)


@pytest.fixture(scope="session")
def ada() -> list[Path]:
    """Six recordings of one voice."""
    return [recording("alba", sentence) for sentence in range(1, 7)]


@pytest.fixture(scope="session")
def bob() -> list[Path]:
    """Six recordings of another."""
    return [recording("kauko", sentence) for sentence in range(1, 7)]
