"""Command line of `train`: fit, export, evaluate, tune, compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from train.evaluate_cli import compare, evaluate
from train.tune_cli import tune
from voicevault.errors import VoicevaultError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
for command in (evaluate, tune, compare):
    app.command()(command)

Config = Annotated[
    Path, typer.Option("--config", help="TOML file of the training, e.g. train/configs/ecapa-small.toml")
]
Corpora = Annotated[
    Path,
    typer.Option(
        "--corpora", envvar="VOICEVAULT_CORPORA", help="Folder that the manifest's paths start from"
    ),
]
Run = Annotated[
    Path, typer.Option("--run", help="Folder of the run: state, TensorBoard; a second call resumes it")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1")]


@app.command()
def fit(
    config: Config, run: Run, corpora: Corpora = Path("../shared/corpora"), device: Device = "cpu"
) -> None:
    """Train, or go on with a training that was interrupted; ends with the model in RUN/model."""
    from train.config import read_config
    from train.fit import Fit

    training = Fit(read_config(config), corpora, run, run.parent / "cache", device)
    training.run()
    identity = training.export(run / "model")
    print(f"model {identity} in {run / 'model'}")


@app.command()
def export(
    config: Config, run: Run, to: Annotated[Path, typer.Option("--to", help="Model folder to write")],
    corpora: Corpora = Path("../shared/corpora"), half: Annotated[bool, typer.Option(help="float16 weights")] = True,
) -> None:  # fmt: skip
    """Write the averaged weights of a run, finished or not, as a model folder."""
    from train.config import read_config
    from train.fit import Fit

    training = Fit(read_config(config), corpora, run, run.parent / "cache")
    print(f"model {training.export(to, half=half)} of step {training.step} in {to}")


def main() -> None:
    try:
        app()
    except VoicevaultError as error:
        print(f"train: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
