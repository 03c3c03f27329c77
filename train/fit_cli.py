"""The commands `fit`, `rank`, `average`, `centre` and `export` of ``python -m train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.evaluate_cli import AsJson, DeviceOption

if TYPE_CHECKING:
    from train.corpus import Utterance

Config = Annotated[
    Path, typer.Option("--config", help="TOML file of the training, e.g. train/configs/ecapa-small.toml")
]
Corpora = Annotated[
    Path,
    typer.Option(
        "--corpora",
        envvar="VOICEVAULT_CORPORA",
        help="Corpus folder: what the paths in the config start from",
    ),
]
Run = Annotated[
    Path, typer.Option("--run", "-o", help="Folder of the run: state, TensorBoard; a second call resumes it")
]
DEFAULT_CORPORA = Path("../shared/corpora")
SpeechCacheOption = Annotated[
    Path, typer.Option("--cache", help="Decoded speech that `fit` left beside its run; else it is built")
]

Half = Annotated[bool, typer.Option(help="float16 weights")]


def fit(
    config: Config,
    run: Run,
    corpora: Corpora = DEFAULT_CORPORA,
    device: DeviceOption = "cpu",
    init: Annotated[
        str | None, typer.Option("--init", help="Start from a model: 'default', or a model folder")
    ] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option("--check", help="Trial list whose EER is printed before and after; may be repeated"),
    ] = None,
    check_root: Annotated[
        Path | None, typer.Option("--check-root", help="Folder that the paths in --check start from")
    ] = None,
    report: Annotated[bool, typer.Option(help="Tune thresholds and write the report at the end")] = True,
) -> None:
    """Train, or go on with a training that was interrupted; ends with RUN/model, its thresholds and RUN/report.

    Several processes: torchrun --nproc-per-node 2 -m train fit --config FILE -o RUN (torchrun takes --run for itself).
    """
    from train.config import read_config
    from train.distributed import processes
    from train.evaluate_embed import model_folder, require_recordings
    from train.fit import Fit
    from train.trials import read_trials

    settings = read_config(config)
    start = model_folder(init) if init else None
    lists = check or []
    for path in lists:  # said before any time is spent
        require_recordings(read_trials(path).recordings, check_root or path.parent, "--check-root")
    with processes(device) as (group, place):
        training = Fit(settings, corpora, run, run.parent / "cache", place, init=start, processes=group)
        before = error_rates(start, lists, check_root) if start and group.first else {}
        training.run()
        if not group.first:
            return
        identity = training.export(run / "model")
    print(f"model {identity} in {run / 'model'}: {_best(run) or f'step {training.step}'}")
    for path, after in error_rates(run / "model", lists, check_root).items():
        old = f"{before[path]:.2%} before, " if path in before else ""
        print(f"{path}: EER {old}{after:.2%} now")
    if settings.validation.refit:
        print(
            "no thresholds and no report, for nobody was kept out: python -m train tune"
            f" --model {run / 'model'} --stand-in MODEL --config CONFIG, with those that the recipe was chosen by"
        )
    elif report:
        _report(run, config, corpora, training.corpus.validation)


def _report(run: Path, config: Path, corpora: Path, kept_out: Sequence[Utterance]) -> None:
    """Thresholds from the speakers that were kept out, and an evaluation on them as a web page."""
    from collections import Counter

    from train.evaluate_cli import evaluate
    from train.tune_cli import tune
    from voicevault.errors import RequestError

    model = str(run / "model")
    try:
        tune(
            model,
            config=config,
            corpora=corpora,
            speech_cache=run.parent / "cache",
            out=run / "tuning",
            cohort=0,
        )
    except RequestError as error:
        print(f"no thresholds: {error.message}")
    pieces = Counter(u.path for u in kept_out)
    whole = [u for u in kept_out if pieces[u.path] == 1]
    if len({u.speaker for u in whole}) < 2:
        print("no report: it takes two speakers kept out who have several recordings each")
        return
    manifest = run / "validation.tsv"
    rows = [f"{u.path}\t{u.speaker}\t{u.source}\t{u.session}\n" for u in whole]
    manifest.write_text("path\tspeaker\tsource\tsession\n" + "".join(rows), encoding="utf-8")
    try:
        evaluate(model, manifest=manifest, audio_root=corpora, impostors="source", out=run / "report")
    except RequestError as error:
        print(f"no report: {error.message}")


def _best(run: Path) -> str:
    """Which weights of a run are exported; empty before its first validation."""
    from train.fit import BEST_FILE
    from train.state import read_facts

    if not (run / BEST_FILE).exists():
        return ""
    best = read_facts(run / BEST_FILE)
    # By earlier releases the rates are not all noted.
    return f"step {best['step']}, validation {best.get('validation') or 'EER {:.2%}'.format(best['eer'])}"


def error_rates(model: Path, lists: Sequence[Path], root: Path | None) -> dict[Path, float]:
    """EER in [0, 1] of a model on each trial list."""
    from train.evaluate import measure, score_trials
    from train.evaluate_embed import load_pipeline
    from train.trials import read_trials

    rates = {}
    for path in lists:
        scored = score_trials(load_pipeline(str(model)), read_trials(path), root or path.parent)
        rates[path] = float(measure(scored)["eer"])
    return rates


def export(
    run: Annotated[Path, typer.Option("--run", "-o", help="Folder of the run")],
    to: Annotated[Path, typer.Option("--to", help="Model folder to write")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Its TOML file; by default what the run noted of it")
    ] = None,
    corpora: Annotated[
        Path | None,
        typer.Option("--corpora", help="Its corpus folder, where that lies elsewhere now"),
    ] = None,
    last: Annotated[
        bool,
        typer.Option(
            "--last", help="The averaged weights of its last step, not those of its best validation"
        ),
    ] = False,
    half: Half = True,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="Also write waveform to embedding as ONNX, checked for equality"),
    ] = None,
) -> None:
    """Write the averaged weights of a run, finished or not, as a model folder."""
    from train.config import read_config
    from train.fit import STATE_FILE, Fit
    from train.provenance import read_provenance
    from voicevault.errors import CheckpointError

    if not (run / STATE_FILE).is_file():
        raise CheckpointError(
            f"{run} holds no training, or one that has not reached its first checkpoint: it has no {STATE_FILE}"
        )
    noted, place = read_provenance(run) if config is None else (read_config(config), None)
    training = Fit(noted, corpora or place or DEFAULT_CORPORA, run, run.parent / "cache")
    identity = training.export(to, half=half, last=last)
    print(f"model {identity} in {to}: {(not last and _best(run)) or f'step {training.step}'}")
    if onnx is not None:
        from train.onnx_export import export_onnx

        print(f"{onnx}: cosine to the model {export_onnx(to, onnx):.6f} at the least")


def rank(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="'default', or model folders")],
    config: Config,
    corpora: Corpora = DEFAULT_CORPORA,
    cache: SpeechCacheOption = Path("runs/cache"),
    device: DeviceOption = "cpu",
    as_json: AsJson = False,
) -> None:
    """Rank models by their EER on the speakers that a config keeps out, clean and augmented.

    This is how to choose between recipes: lists that evaluate the choice stay unseen.
    """
    import json
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress

    from train.config import read_config
    from train.distributed import usable
    from train.rank import as_text, rank_models

    settings, place = read_config(config), usable(device)
    bar = Progress(console=Console(stderr=True))

    def progress(name: str, total: int) -> Callable[[int], object]:
        bar.start()  # not before: decoding has a bar of its own
        task = bar.add_task(name, total=total)
        return lambda done: bar.advance(task, done)

    try:
        result = rank_models(models, settings, corpora, cache, place, progress)
    finally:
        bar.stop()
    print(json.dumps(result, indent=2) if as_json else as_text(result), end="\n" if as_json else "")


def average(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Model folders of one architecture")
    ],
    config: Config,
    to: Annotated[Path, typer.Option("--to", help="Model folder to write")],
    share: Annotated[
        list[float] | None,
        typer.Option("--share", help="Of each model, in their order; by default all alike"),
    ] = None,
    corpora: Corpora = DEFAULT_CORPORA,
    cache: SpeechCacheOption = Path("runs/cache"),
    device: DeviceOption = "cpu",
    half: Half = True,
) -> None:
    """Write the mean of models' weights as a model, its batch norms measured on a config's recordings.

    Often better than each of them where one was trained from the other; `rank` tells.
    """
    from train.average import average_on_corpus
    from train.config import read_config
    from train.distributed import usable
    from voicevault.encoder.checkpoint import save_checkpoint

    shares = share or [1.0] * len(models)
    model = average_on_corpus(models, shares, read_config(config), corpora, cache, usable(device))
    print(f"model {save_checkpoint(model, to, half=half)} in {to}")


def centre(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="'default', or a model folder")],
    config: Config,
    to: Annotated[Path, typer.Option("--to", help="Model folder to write")],
    corpora: Corpora = DEFAULT_CORPORA,
    cache: SpeechCacheOption = Path("runs/cache"),
    device: DeviceOption = "cpu",
    half: Half = True,
) -> None:
    """Write a model that takes from an embedding what all voices of its kind of recording share.

    The kinds are the collections that the config trains on; the speakers it keeps out have no part. `rank` tells its worth.
    """
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress

    from train.centring import centre_on_corpus
    from train.config import read_config
    from train.corpus import UNKNOWN
    from train.distributed import usable
    from train.evaluate_embed import model_folder
    from voicevault.encoder.checkpoint import save_checkpoint

    bar = Progress(console=Console(stderr=True))

    def progress(total: int) -> Callable[[int], object]:
        bar.start()  # not before: decoding has a bar of its own
        task = bar.add_task("embedding", total=total)
        return lambda done: bar.advance(task, done)

    settings, place = read_config(config), usable(device)
    try:
        made, speakers = centre_on_corpus(model_folder(model), settings, corpora, cache, place, progress)
    finally:
        bar.stop()
    for source, count in speakers.items():
        print(f"{'all recordings' if source == UNKNOWN else source}: the mean of {count:,} speakers")
    print(f"model {save_checkpoint(made, to, half=half)} in {to}")
