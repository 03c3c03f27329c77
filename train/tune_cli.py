"""The command `tune` of ``python -m train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.evaluate_cli import (
    AsJson,
    DeviceOption,
    Impostors,
    Model,
    Precision,
    Threads,
    Workers,
    shared_attributes,
)
from train.fit_cli import SpeechCacheOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voicevault.embedding import EmbeddingPipeline
    from voicevault.scoring.policy import Policy, PolicyRow


def tune(
    model: Model,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Recordings of speakers the model was not trained on")
    ] = None,
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="Folder that the manifest's paths start from")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Instead: a training, for its held-out speakers and a cohort"),
    ] = None,
    corpora: Annotated[
        Path, typer.Option("--corpora", envvar="VOICEVAULT_CORPORA", help="Corpora of that training")
    ] = Path("../shared/corpora"),
    speech_cache: SpeechCacheOption = Path("runs/cache"),
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Instead: a scores.tsv that evaluate wrote for this model")
    ] = None,
    cohort: Annotated[
        int, typer.Option("--cohort", min=0, help="Speakers of the cohort for AS-norm; 0 makes none")
    ] = 400,
    cohort_manifest: Annotated[
        Path | None,
        typer.Option("--cohort-manifest", help="Cohort speakers, where they are not a training's"),
    ] = None,
    stand_in: Annotated[
        str | None,
        typer.Option(
            "--stand-in",
            help="For a refit: a model by the same recipe that --config kept speakers out of; its scores are used",
        ),
    ] = None,
    impostors: Impostors = "source",
    prior: Annotated[
        float, typer.Option("--prior", help="Prior of a genuine trial that the calibration is weighted for")
    ] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for plots and kept embeddings")] = None,
    workers: Workers = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Fit thresholds, calibration and cohort on speakers the model was not trained on, into its folder."""
    from train.embedding_cache import EmbeddingCache
    from train.evaluate import read_scores
    from train.evaluate_embed import load_pipeline, model_folder
    from train.evaluate_report import threshold_lines
    from train.trials import read_recordings
    from train.tune import POLICY_FILE, fit_policy, save_policy, tune_recordings
    from train.tune_refit import lend
    from train.tune_speakers import draw_cohort, manifest_digest, training_speakers
    from voicevault.encoder.lazy import read_identity
    from voicevault.errors import ModelMismatchError, RequestError
    from voicevault.scoring.plots import plot_histogram

    if sum(given is not None for given in (manifest, config, scores)) != 1:
        raise RequestError("Give the trials by one of --manifest, --config and --scores.")
    if not 0.0 < prior < 1.0:
        raise RequestError("--prior lies between 0 and 1.", prior=prior)
    if stand_in is not None and (config is None or not cohort):
        raise RequestError(
            "--stand-in needs --config, the training that kept speakers out, and a cohort of the others."
        )
    shared = shared_attributes(impostors)
    target = model_folder(model)
    identity = read_identity(target)
    if stand_in is not None and read_identity(model_folder(stand_in)).model_id == identity.model_id:
        raise RequestError("The stand-in is the model itself: name the one that did not hear these speakers.")
    folder = out or Path("runs/tune") / identity.model_id[:12]
    if scores is not None:
        whose, values, genuine, pairs = read_scores(scores)
        if whose != identity.model_id:
            raise ModelMismatchError(
                f"{scores} holds scores of another model.", scores=whose, model=identity.model_id
            )
        facts: dict[str, Any] = {"speakers_from": scores.name, "scores_sha256": manifest_digest(scores)}
        policy = fit_policy(identity.model_id, values, genuine, pairs, provenance=facts, prior=prior)
        folder.mkdir(parents=True, exist_ok=True)
        save_policy(policy, target)
    else:
        cohort_from, shares, cohort_root = [], dict[str, float](), corpora
        if config is not None:
            people = training_speakers(config, corpora, speech_cache)
            recordings, root, facts = people.held_out, corpora, people.provenance
            cohort_from, shares = people.trained, people.shares
        else:
            assert manifest is not None
            root = audio_root or (manifest if manifest.is_dir() else manifest.parent)
            recordings = read_recordings(manifest, root)
            facts = {"speakers_from": manifest.name, "manifest_sha256": manifest_digest(manifest)}
        named = f"training speakers of {facts.get('training')}"
        if cohort_manifest is not None:
            cohort_root = cohort_manifest if cohort_manifest.is_dir() else cohort_manifest.parent
            cohort_from, shares = read_recordings(cohort_manifest, cohort_root), {}
            named = f"speakers of {cohort_manifest.name}"
        folder.mkdir(parents=True, exist_ok=True)

        def loaded(name: str) -> tuple[EmbeddingPipeline, EmbeddingCache]:
            pipeline = load_pipeline(name, threads=threads, device=device, precision=precision)
            return pipeline, EmbeddingCache(folder, pipeline.encoder)

        scoring = loaded(stand_in or model)
        drawn = draw_cohort(cohort_from, cohort, shares)
        tuned = tune_recordings(
            scoring[0],
            recordings,
            root,
            provenance=facts,
            within=shared,
            prior=prior,
            cohort_recordings=drawn,
            cohort_root=cohort_root,
            cohort_name=named,
            cache=scoring[1],
            workers=workers,
        )
        if stand_in is not None:
            tuned = lend(tuned, scoring, loaded(model), drawn, cohort_root, within=shared, workers=workers)
        tuned.save(target)
        policy, values, genuine = tuned.policy, tuned.scored.scores, tuned.scored.trials.genuine
    lines = threshold_lines(policy)
    plot_histogram(values, genuine, folder / "scores.png", "Tuning trials", lines)
    if as_json:
        print((target / POLICY_FILE).read_text(encoding="utf-8"), end="")
    else:
        _print_policy(policy, target)


def _print_policy(policy: Policy, target: Path) -> None:
    facts = policy.provenance
    print(f"{facts['trials']:,} trials of {facts['speakers']:,} speakers, from {facts['speakers_from']}")
    _print_rows(policy.thresholds)
    if all(row.threshold is None for row in policy.thresholds):
        print("  no threshold: about 25 speakers are needed at FMR 10 %, 80 at 1 % and 250 at 0.1 %")
    if found := facts["cross_fitted"].get("rows"):
        print(f"on speakers who did not set them ({facts['cross_fitted']['folds']} folds):")
        _print_rates(found, "_cross_fitted", "_in_sample", "in sample")
    if lent := facts.get("lent"):
        shown = f"; on {lent['speakers']:,} speakers whom both heard:" if lent["rows"] else ""
        print(f"of a stand-in, {facts['scores_of']}{shown}")
        _print_rates(lent["rows"], "", "_stand_in", "stand-in")
    for group, rows in policy.groups.items():
        supported = [row for row in rows if row.threshold is not None]
        left = (
            f", {len(rows) - len(supported)} rows that too few errors support"
            if len(supported) < len(rows)
            else ""
        )
        print(
            f"{group}: {rows[0].genuine_trials:,} genuine, {rows[0].impostor_trials:,} impostor trials{left}"
        )
        _print_rows(supported)
    worth = facts["calibration"]
    if "held_out_cllr_after" in worth:
        print(
            f"calibration: held-out Cllr {worth['held_out_cllr_before']:.3f} before,"
            f" {worth['held_out_cllr_after']:.3f} after, {worth['held_out_min_cllr']:.3f} at best"
        )
    else:
        print(f"calibration: {worth['reason']}")
    if norm := facts.get("as_norm"):
        print(
            f"AS-norm: EER {norm['eer_cosine']:.2%} as cosines, {norm['eer_as_norm']:.2%} with a cohort"
            f" of {norm['cohort']} speakers"
        )
    print(f"written to {target}")


def _print_rates(rows: Mapping[str, Mapping[str, float]], one: str, other: str, whose: str) -> None:
    """FMR and FNMR of each row, and beside them those of `whose`; `one` and `other` end their keys."""
    for name, row in rows.items():
        fmr, fnmr = (
            f"{kind.upper()} {row[f'{kind}{one}']:.3%} ({whose} {row[f'{kind}{other}']:.3%})"
            for kind in ("fmr", "fnmr")
        )
        print(f"  {name:12} {fmr}  {fnmr}")


def _print_rows(rows: Sequence[PolicyRow]) -> None:
    for row in rows:
        shown = f"{row.threshold:.3f}" if row.threshold is not None else "-"
        missed = f"{row.fnmr:.2%}" if row.fnmr is not None else "-"
        line = f"  {row.name:12} FMR {row.fmr:<8.3%} threshold {shown:7} FNMR {missed:8}"
        print(f"{line} {row.reason or ''}".rstrip())
