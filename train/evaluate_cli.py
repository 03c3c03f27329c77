"""The commands `evaluate` and `tune` of ``python -m train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Option("--model", help="'default', or a model folder")]
AudioRoot = Annotated[Path, typer.Option("--audio-root", help="Folder that the paths of the list start from")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode; 0 decodes in this one")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="torch threads")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]


def evaluate(
    model: Model,
    trials: Annotated[Path, typer.Option("--trials", help="Trial list: label path path, Kaldi or CSV")],
    audio_root: AudioRoot,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for scores, plots and report")] = None,
    workers: Workers = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score a list of trials: EER and minDCF, scores file and DET plot."""
    from train.evaluate import RESULT_FILE, SCORES_FILE, measure, score_trials, write_result, write_scores
    from train.evaluate_embed import EmbeddingCache, load_pipeline
    from train.trials import read_trials
    from voicevault.scoring.plots import plot_det

    listed = read_trials(trials)
    pipeline = load_pipeline(model, threads=threads, device=device)
    folder = out or Path("runs/evaluate") / f"{trials.stem}-{pipeline.encoder.model_id[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    cache = EmbeddingCache(folder, pipeline.encoder.model_id)
    scored = score_trials(pipeline, listed, audio_root, cache=cache, workers=workers)
    result = {
        "model": pipeline.encoder.name,
        "model_id": pipeline.encoder.model_id,
        "list": trials.name,
        **measure(scored),
    }
    write_scores(folder / SCORES_FILE, scored)
    write_result(folder / RESULT_FILE, result)
    plot_det(
        scored.scores, listed.genuine, folder / "det.png", title=f"{pipeline.encoder.name}: {trials.stem}"
    )
    if as_json:
        print(json.dumps({**result, "out": str(folder)}, indent=2))
    else:
        _print_result(result, folder)


def _print_result(result: dict[str, Any], folder: Path) -> None:
    print(f"model                {result['model']} ({result['model_id']})")
    print(f"trials               {result['trials']:,} ({result['genuine']:,} of one speaker)")
    print(f"recordings           {result['recordings']:,} of {result['speakers']:,} speakers")
    print(f"too short to enroll  {result['embedded_whole']:,}, embedded whole")
    if result["contradictory_labels"]:
        print(f"contradictory labels {result['contradictory_labels']:,}: check the list")
    print(f"EER                  {result['eer']:.2%} at {result['eer_threshold']:.3f}")
    print(f"minDCF(0.01)         {result['min_dcf_01']:.3f}")
    print(f"minDCF(0.05)         {result['min_dcf_05']:.3f}")
    print(f"scores and plots     {folder}")


def tune(
    model: Model,
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="Folder that the manifest's paths start from")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Recordings of speakers the model was not trained on")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Instead of a manifest: a training, for its held-out speakers"),
    ] = None,
    corpora: Annotated[
        Path, typer.Option("--corpora", envvar="VOICEVAULT_CORPORA", help="Corpora of that training")
    ] = Path("../shared/corpora"),
    speech_cache: Annotated[
        Path, typer.Option("--cache", help="Decoded speech that `fit` left beside its run; else it is built")
    ] = Path("runs/cache"),
    within: Annotated[
        str,
        typer.Option("--impostors", help="What impostors share: 'all' (anybody), 'source', 'source,gender'"),
    ] = "source",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for plots and kept embeddings")] = None,
    workers: Workers = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    as_json: AsJson = False,
) -> None:
    """Fit the model's thresholds on speakers it was not trained on, and write its policy.json."""
    from dataclasses import asdict

    from train.evaluate import cosines
    from train.evaluate_embed import EmbeddingCache, load_pipeline, model_folder
    from train.trials import read_recordings
    from train.tune import POLICY_FILE, describe_training, fit_policy, manifest_digest, validation_recordings
    from voicevault.errors import RequestError
    from voicevault.scoring.plots import plot_histogram

    if (manifest is None) == (config is None):
        raise RequestError("Give the speakers by --manifest, or by --config of a training.")
    shared = () if within == "all" else tuple(within.split(","))
    if not set(shared) <= {"source", "gender"}:
        raise RequestError("--impostors is 'all', 'source', 'gender' or 'source,gender'.", impostors=within)
    if config is not None:
        recordings, root = validation_recordings(config, corpora, speech_cache), corpora
        whose = describe_training(config, corpora)
    else:
        assert manifest is not None
        root = audio_root or (manifest if manifest.is_dir() else manifest.parent)
        recordings = read_recordings(manifest, root)
        whose = {
            "speakers_from": manifest.name,
            "manifest_sha256": manifest_digest(manifest),
        }
    pipeline = load_pipeline(model, threads=threads, device=device)
    folder = out or Path("runs/tune") / pipeline.encoder.model_id[:12]
    folder.mkdir(parents=True, exist_ok=True)
    cache = EmbeddingCache(folder, pipeline.encoder.model_id)
    policy, trials, embedded = fit_policy(
        pipeline, recordings, root, within=shared, provenance=whose, cache=cache, workers=workers
    )
    target = model_folder(model) / POLICY_FILE
    policy.save(target)
    lines = {row.name: row.threshold for row in policy.thresholds if row.threshold is not None}
    plot_histogram(
        cosines(embedded.vectors, trials), trials.genuine, folder / "scores.png", "Tuning trials", lines
    )
    rows = [asdict(row) for row in policy.thresholds]
    if as_json:
        print(
            json.dumps(
                {"model_id": policy.model_id, "thresholds": rows, "provenance": policy.provenance}, indent=2
            )
        )
        return
    print(f"{policy.provenance['trials']:,} trials of {policy.provenance['speakers']:,} speakers")
    for row in policy.thresholds:
        shown = f"{row.threshold:.3f}" if row.threshold is not None else "-"
        missed = f"{row.fnmr:.2%}" if row.fnmr is not None else "-"
        print(f"{row.name:12} FMR {row.fmr:<8.3%} threshold {shown:7} FNMR {missed:8} {row.reason or ''}")
    print(f"written to {target}")
