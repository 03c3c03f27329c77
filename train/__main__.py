"""Retrain speaker models, tune their thresholds, and measure them."""

from __future__ import annotations

import sys

import typer

from train.data_cli import data, examples
from train.evaluate_cli import compare, evaluate
from train.fit_cli import average, centre, export, fit, rank
from train.tune_cli import tune
from voicevault.errors import VoicevaultError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
for command in (data, examples, fit, rank, average, centre, tune, evaluate, compare, export):
    app.command()(command)


def main() -> None:
    try:
        app()
    except VoicevaultError as error:
        print(f"train: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
