"""EER and minDCF of the model on a trial list, through the pipeline that a vault embeds with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.rows import Recorded, Rows
from benchmarks.workbench import bundled_voices, model_path
from voicevault.errors import RequestError

if TYPE_CHECKING:
    from rich.progress import Progress

    from train.trials import Trials

BUNDLED = "bundled"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyOptions(Options):
    trials: Path | None = option(
        None, "trial list, lines 'label path path' (default: every pair of the voices)"
    )
    audio_root: Path | None = option(
        None, "folder that the list's paths start from (default: the list's own)"
    )
    speakers: int = option(0, "the first so many speakers of the voices; 0 takes all", least=0)
    device: str = option("cpu", "where the model runs")


def measure(options: AccuracyOptions, rows: Rows, progress: Progress) -> None:
    from train.evaluate import score_trials
    from train.evaluate_embed import load_pipeline

    folder = model_path(options)
    name, trials, root = _trials(options)
    progress.stop()  # embedding has a bar of its own
    scored = score_trials(load_pipeline(str(folder), device=options.device), trials, root)
    rows.append(
        "list",
        name=name,
        trials=len(trials),
        recordings=len(trials.recordings),
        speakers=len(set(trials.column("speaker").tolist())),
        seconds=float(scored.embedded.seconds.sum()),
        embedded_whole=scored.embedded.whole,
    )
    for threshold in _policy(folder):
        rows.append("threshold", **threshold)
    names = [recording.name for recording in trials.recordings]
    for genuine, score, enroll, test in zip(
        trials.genuine.tolist(),
        scored.scores.tolist(),
        trials.enroll.tolist(),
        trials.test.tolist(),
        strict=True,
    ):
        rows.append("trial", label=int(genuine), score=score, enroll=names[enroll], test=names[test])


def _trials(options: AccuracyOptions) -> tuple[str, Trials, Path]:
    """What the list is called, the list, and where its paths start."""
    from train.trials import all_pairs, read_recordings, read_trials

    if options.trials is not None:
        root = options.audio_root if options.audio_root is not None else options.trials.parent
        return options.trials.stem, read_trials(options.trials), root
    source = options.voices if options.voices is not None else bundled_voices()
    if not source.exists():
        raise RequestError(
            f"There are no recordings at {source}. Give some: --voices FOLDER, or --trials FILE."
        )
    recordings = read_recordings(source)
    names = list(dict.fromkeys(recording.speaker for recording in recordings))
    if options.speakers:
        chosen = set(names[: options.speakers])
        recordings = [recording for recording in recordings if recording.speaker in chosen]
    root = options.audio_root or (source if source.is_dir() else source.parent)
    name = BUNDLED if options.voices is None else source.name
    if len(names) > options.speakers > 0:
        name = f"{options.speakers} speakers of {name}"
    return name, all_pairs(recordings), root


def _policy(folder: Path) -> list[dict[str, Any]]:
    """The thresholds that the model comes with; none where it has no table."""
    from voicevault.scoring.policy import Policy

    table = folder / "policy.json"
    if not table.is_file():
        return []
    rows = Policy.load(table).thresholds
    return [{"name": r.name, "fmr": r.fmr, "threshold": r.threshold} for r in rows if r.threshold is not None]


def _scores(recorded: Recorded) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    trials = recorded.where("trial")
    return (
        np.array([row["score"] for row in trials], dtype=np.float64),
        np.array([row["label"] for row in trials], dtype=np.int64),
    )


def metrics(recorded: Recorded) -> Metrics:
    from voicevault.scoring.metrics import equal_error_rate, min_dcf

    scores, labels = _scores(recorded)
    rate, threshold = equal_error_rate(scores, labels)
    (name,) = recorded.values("name", "list")
    derived: dict[str, float | Unmeasured] = {
        "trials": len(scores),
        "eer": rate,
        "eer_threshold": threshold,
        "min_dcf_01": min_dcf(scores, labels, p_target=0.01),
        "min_dcf_05": min_dcf(scores, labels, p_target=0.05),
    }
    for row in recorded.where("threshold"):
        derived[f"{row['name']}_fmr"] = float((scores[labels == 0] >= row["threshold"]).mean())
        derived[f"{row['name']}_fnmr"] = float((scores[labels == 1] < row["threshold"]).mean())
    for known in EER_LIMITS:
        derived[f"eer_{known}"] = rate if name == known else Unmeasured(f"the run is on {name}")
    return derived


def tables(recorded: Recorded) -> list[Table]:
    found, (about,) = metrics(recorded), recorded.where("list")
    _, labels = _scores(recorded)
    genuine = int(labels.sum())
    facts: list[tuple[str, object]] = [
        ("trials", about["trials"]),
        ("of one speaker", genuine),
        ("recordings", about["recordings"]),
        ("speakers", about["speakers"]),
        ("too short to enroll, embedded whole", about["embedded_whole"]),
        ("EER", _percent(found["eer"])),
        ("threshold at the EER", found["eer_threshold"]),
        ("minDCF (p_target 0.01, costs 1)", found["min_dcf_01"]),
        ("minDCF (p_target 0.05, costs 1)", found["min_dcf_05"]),
    ]
    made = [Table(f"Accuracy on {about['name']}", ("what", "value"), facts)]
    thresholds = recorded.where("threshold")
    if thresholds:
        made.append(
            Table(
                "The model's own thresholds on these trials",
                ("row", "threshold", "FMR meant", "FMR here", "FNMR here"),
                [
                    (
                        row["name"],
                        row["threshold"],
                        _percent(row["fmr"]),
                        _percent(found[f"{row['name']}_fmr"]),
                        _percent(found[f"{row['name']}_fnmr"]),
                    )
                    for row in thresholds
                ],
                f"{len(labels) - genuine:,} impostor trials: a false match rate below"
                f" {30 / (len(labels) - genuine):.2%} rests on fewer than 30 of them.",
            )
        )
    return made


def _percent(value: float | Unmeasured) -> str:
    return "not measured" if isinstance(value, Unmeasured) else f"{value:.2%}"


def plot(recorded: Recorded, path: Path) -> None:
    from voicevault.scoring.plots import plot_det

    scores, labels = _scores(recorded)
    (name,) = recorded.values("name", "list")
    plot_det(scores, labels, path, title=f"DET curve, {name} · {recorded.run['model']['name']}")


EER_LIMITS = {BUNDLED: 0.02, "eval-librispeech": 0.04, "eval-so762": 0.08}
"""Trial list -> highest EER, as a fraction. On the bundled, synthetic voices even an untrained network has 0.1."""

BENCHMARK = Benchmark(
    name="accuracy",
    summary="EER and minDCF on the bundled voices, or on a trial list",
    options=AccuracyOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=tuple(
        Bound(
            name=f"EER on {name}",
            metric=f"eer_{name}",
            at_most=limit,
            unit="",
            why="what the default model was made to reach",
        )
        for name, limit in EER_LIMITS.items()
    ),
    quick={"speakers": 3},
)
