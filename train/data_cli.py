"""The commands `data` and `examples` of ``python -m train``: look at a corpus, and listen to its augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from train.evaluate_cli import AsJson
from train.fit_cli import DEFAULT_CORPORA, Config, Corpora


def data(
    manifest: Annotated[Path, typer.Argument(help="Manifest, Kaldi folder, or folder of speakers")],
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="Folder that relative paths start from")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Judge the labels with this model: 'default', or a folder")
    ] = None,
    cache: Annotated[Path, typer.Option("--cache", help="Where decoded speech is kept")] = Path("runs/cache"),
    as_json: AsJson = False,
) -> None:
    """Report on a corpus: speakers, hours, doubles, what cannot be used, and labels that look wrong."""
    from train.corpus import UNKNOWN, read_manifest
    from train.data import SpeechCache
    from train.data_report import describe_corpus, suspicious_labels
    from train.evaluate_embed import model_folder

    root = audio_root or (manifest if manifest.is_dir() else manifest.parent)
    speech = SpeechCache.build(read_manifest(manifest, root), root, cache)
    report = describe_corpus(speech)
    if model is not None:
        report["suspicious"] = suspicious_labels(speech, model_folder(model))
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for key in ("speakers", "recordings", "skipped", "hours", "single_recording_speakers"):
        print(f"{key.replace('_', ' '):28} {report[key]:,}")
    print(f"{'seconds: 5 %, median, 95 %':28} {', '.join(f'{s:.1f}' for s in report['seconds'])}")
    for source, facts in report["sources"].items():
        source = "(no source)" if source == UNKNOWN else source
        print(f"  {source:44} {facts['speakers']:6,} speakers {facts['hours']:7.2f} h")
    if report["unusable"]:
        print("cannot be used")
    for path, _, reason in report["unusable"][:10]:
        print(f"  {path}: {reason}")
    if report["skipped"] > 10:
        print(f"  and {report['skipped'] - 10:,} more, in {speech.reasons}")
    print(f"{'doubles':28} {len(report['doubles'])}")
    for group in report["doubles"][:10]:
        print(f"  {' = '.join(group)}")
    for kind, rows in report.get("suspicious", {}).items():
        print(f"{kind.replace('_', ' ')}: {len(rows)}")
        for row in rows[:20]:
            print(f"  {row['score']:+.2f}  {row['what']}")


def examples(
    config: Config,
    to: Annotated[Path, typer.Option("--to", help="Folder for the clips")],
    corpora: Corpora = DEFAULT_CORPORA,
    recording: Annotated[
        Path | None, typer.Option("--recording", help="Recording to change; by default a bundled voice")
    ] = None,
) -> None:
    """Write a clip for each augmentation of a config, and for all of them together, to listen to."""
    from train.config import read_config
    from train.examples import write_examples

    settings = read_config(config)
    for path in write_examples(settings, corpora, to, recording):
        print(path)
