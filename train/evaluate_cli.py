"""The commands `evaluate` and `compare` of ``python -m train``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from voicevault.scoring.metrics import CostPoint

Model = Annotated[str, typer.Option("--model", help="'default', or a model folder")]
Impostors = Annotated[
    str,
    typer.Option(
        "--impostors", help="What the two of an impostor pair share: 'all' (nothing), 'source', 'gender'"
    ),
]
REPORT_FILE = "report.html"
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode; 0 decodes in this one")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="torch threads")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="fp32 or int8; by default the model's own choice")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]


def evaluate(
    model: Model,
    trials: Annotated[
        Path | None, typer.Option("--trials", help="Trial list: label path path, Kaldi, or CSV with a header")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", help="Speakers, sources and gender of the list; without one, all its pairs"
        ),
    ] = None,
    audio_root: Annotated[
        Path | None,
        typer.Option("--audio-root", help="Folder that paths start from; by default the list's own"),
    ] = None,
    impostors: Impostors = "all",
    cost: Annotated[
        list[str] | None, typer.Option("--cost", help="More costs: P_TARGET,C_MISS,C_FA; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for scores, plots and report")] = None,
    report: Annotated[
        bool, typer.Option(help="Write report.html and its plots, not the DET plot alone")
    ] = True,
    conditions: Annotated[
        bool, typer.Option("--conditions", help="Measure noise, rooms, codecs and lengths too (takes time)")
    ] = False,
    condition_recordings: Annotated[
        int, typer.Option("--condition-recordings", min=10, help="At most so many recordings of them")
    ] = 300,
    noise: Annotated[
        Path | None, typer.Option("--noise", help="Folder with recordings of noise; else it is synthetic")
    ] = None,
    workers: Workers = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Score a list of trials, or all pairs of a manifest: error rates, plots, and a report."""
    import datetime

    from train.conditions import noise_files
    from train.embedding_cache import EmbeddingCache
    from train.evaluate import (
        RESULT_FILE,
        SCORES_FILE,
        measure,
        score_pairs,
        score_trials,
        write_result,
        write_scores,
    )
    from train.evaluate_embed import load_pipeline, model_folder
    from train.evaluate_report import STANDARD, analyse, draw, measure_conditions, read_model_files
    from train.report import render
    from train.trials import known_recordings, read_trials
    from voicevault.errors import RequestError
    from voicevault.scoring.plots import plot_det

    listing = trials or manifest
    if listing is None:
        raise RequestError("Give a trial list by --trials, or recordings by --manifest.")
    if trials is not None and impostors != "all":
        raise RequestError(
            "--impostors chooses among all pairs of a --manifest; a trial list is taken whole."
        )
    points = (*STANDARD, *cost_points(cost or ()))
    shared = shared_attributes(impostors)
    root = audio_root or (listing if listing.is_dir() else listing.parent)
    known = None if manifest is None else known_recordings(manifest, root)
    listed = None if trials is None else read_trials(trials, known)
    if noise is not None:
        noise_files(noise)  # said before any time is spent
    pipeline = load_pipeline(model, threads=threads, device=device, precision=precision)
    files = read_model_files(model_folder(model), pipeline.encoder.model_id)
    folder = out or Path("runs/evaluate") / f"{listing.stem}-{pipeline.encoder.model_id[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    cache = EmbeddingCache(folder, pipeline.encoder)
    skipped: list[str] = []
    if listed is not None:
        scored = score_trials(pipeline, listed, root, cache=cache, workers=workers)
    else:
        assert known is not None
        scored, skipped = score_pairs(
            pipeline, list(known.values()), root, within=shared, cache=cache, workers=workers
        )
    result: dict[str, Any] = {
        "model": pipeline.encoder.name,
        "model_id": pipeline.encoder.model_id,
        "engine": getattr(pipeline.encoder, "engine", None),
        "list": listing.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "skipped_recordings": skipped,
        **(analyse(scored, files, points) if report or conditions else measure(scored)),
    }
    if conditions:
        result["conditions"] = measure_conditions(
            pipeline, scored, root, condition_recordings, noise, cache=cache, workers=workers
        )
    write_scores(folder / SCORES_FILE, scored, pipeline.encoder.model_id)
    write_result(folder / RESULT_FILE, result)
    if report or conditions:
        pictures = draw(scored, result, folder, files)
        (folder / REPORT_FILE).write_text(render(result, pictures), encoding="utf-8")
    else:
        plot_det(scored.scores, scored.trials.genuine, folder / "det.png")
    if as_json:
        print(json.dumps({**result, "out": str(folder)}, indent=2))
    else:
        _print_result(result, folder)


def cost_points(costs: Sequence[str]) -> list[CostPoint]:
    from voicevault.errors import RequestError
    from voicevault.scoring.metrics import CostPoint

    points = []
    for text in costs:
        try:
            p_target, c_miss, c_fa = (float(part) for part in text.split(","))
        except ValueError as error:
            raise RequestError(f"--cost {text}: three numbers are needed, P_TARGET,C_MISS,C_FA.") from error
        points.append(CostPoint(p_target, c_miss, c_fa))
    return points


def shared_attributes(impostors: str) -> tuple[str, ...]:
    from voicevault.errors import RequestError

    shared = () if impostors == "all" else tuple(impostors.split(","))
    if not set(shared) <= {"source", "gender"}:
        raise RequestError(
            "--impostors is 'all', 'source', 'gender' or 'source,gender'.", impostors=impostors
        )
    return shared


def _print_result(result: dict[str, Any], folder: Path) -> None:
    ends = result.get("eer_interval")
    between = f", 95 % interval {ends[0]:.2%} to {ends[1]:.2%} over speakers" if ends else ""
    print(f"model                {result['model']} ({result['model_id']})")
    print(f"trials               {result['trials']:,} ({result['genuine']:,} of one speaker)")
    print(f"recordings           {result['recordings']:,} of {result['speakers']:,} speakers")
    print(f"too short to enroll  {result['embedded_whole']:,}, embedded whole")
    if result["skipped_recordings"]:
        print(f"skipped              {len(result['skipped_recordings']):,} recordings that cannot be used")
    if result["contradictory_labels"]:
        print(f"contradictory labels {result['contradictory_labels']:,}: check the list")
    print(f"EER                  {result['eer']:.2%} at {result['eer_threshold']:.3f}{between}")
    if "no_interval" in result:
        print(f"                     no interval: {result['no_interval']}")
    for cost in result.get("costs", ()):
        name = f"minDCF({cost['p_target']:g}" + (
            f",{cost['c_miss']:g},{cost['c_fa']:g})" if (cost["c_miss"], cost["c_fa"]) != (1.0, 1.0) else ")"
        )
        print(f"{name:20} {cost['min_dcf']:.3f}")
    if "costs" not in result:
        print(f"minDCF(0.01)         {result['min_dcf_01']:.3f}")
        print(f"minDCF(0.05)         {result['min_dcf_05']:.3f}")
    if result.get("as_norm"):
        print(f"EER with AS-norm     {result['as_norm']['eer']:.2%}")
    if rank := result.get("identification", {}).get("rank_accuracy"):
        print(f"rank 1               {rank[0]:.2%} among {result['identification']['gallery']} speakers")
    for row in result.get("conditions", {}).get("rows", ()):
        if row["clean_enrollment"]["eer"] is not None:
            print(f"  {row['condition']:18} {row['clean_enrollment']['eer']:.2%}")
    print(f"scores and plots     {folder}")


def compare(
    model: Annotated[list[str], typer.Option("--model", help="'default' or a model folder; repeat it")],
    trials: Annotated[list[Path], typer.Option("--trials", help="Trial list; may be repeated")],
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="Folder that paths start from")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table and kept embeddings")] = Path(
        "runs/compare"
    ),
    workers: Workers = None,
    threads: Threads = 1,
    device: DeviceOption = "cpu",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Measure several models on the same lists: size, time, error rates."""
    from train.compare import as_markdown, compare_models
    from train.trials import read_trials

    alike = len({path.stem for path in trials}) < len(trials)
    lists = [(str(path) if alike else path.stem, read_trials(path)) for path in trials]
    out.mkdir(parents=True, exist_ok=True)
    rows = compare_models(
        model,
        lists,
        audio_root or trials[0].parent,
        out,
        workers=workers,
        threads=threads,
        device=device,
        precision=precision,
    )
    (out / "compare.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (out / "compare.md").write_text(as_markdown(rows), encoding="utf-8")
    print(json.dumps(rows, indent=2) if as_json else as_markdown(rows), end="\n" if as_json else "")
