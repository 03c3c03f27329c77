"""Models beside each other on the speakers that a training keeps out: which recipe to choose, before any list is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from train.config import FitConfig
from train.corpus import UNKNOWN
from train.evaluate_embed import model_folder
from train.fixed_condition import FixedCondition
from train.split import read_corpus
from train.validate import validate
from voicevault.encoder.checkpoint import load_checkpoint


def rank_models(
    models: Sequence[str],
    config: FitConfig,
    root: Path,
    cache_folder: Path,
    device: torch.device,
    progress: Callable[[str, int], Callable[[int], object]] | None = None,
) -> dict[str, Any]:
    """The models as JSON values, that with the lowest mean EER first, and what they were heard on.

    The numbers are those that a training with this config and ``validation.augmented`` prints: float32, trimmed recordings.

    Args:
        models: ``default`` or model folders.
        root, cache_folder: See `train.split.read_corpus`.
        progress: Called with a model's name and the number of its embeddings; what it returns is called with how many are done.

    Raises:
        ModelNotFoundError, CheckpointError, ManifestError; all before anything is embedded.
    """
    loaded = [(name, *load_checkpoint(model_folder(name))) for name in models]
    corpus = read_corpus(config, root, cache_folder)
    corpus.require_kept_out()
    condition = FixedCondition(config, root, corpus.cache, corpus.validation, device)
    rows: list[dict[str, Any]] = []
    for name, model, identity in loaded:
        advance = progress(name, 2 * len(corpus.validation)) if progress else None
        model.to(device)
        found = validate(model, corpus, device, condition, advance)
        scalars = found.scalars()
        rows.append(
            {
                "model": name,
                "name": model.config.name,
                "model_id": identity,
                "eer": found.mean_eer,
                "clean": scalars["eer/mean"],
                "augmented": scalars["eer_augmented/mean"],
                "sources": {
                    source: {"clean": rate, "augmented": scalars[f"eer_augmented/{source}"]}
                    for source, rate in found.eer.items()
                },
            }
        )
        model.to("cpu")
    rows.sort(key=lambda row: float(row["eer"]))
    return {
        "config": config.name,
        "validation_seed": config.validation_seed,
        "noise": config.augment.noise_folder or None,
        "data_sha256": corpus.cache.digest,
        "recordings": len(corpus.validation),
        "speakers": len({u.speaker for u in corpus.validation}),
        "models": rows,
    }


def as_text(result: dict[str, Any]) -> str:
    """One line per model, best first, then one per collection with clean and augmented EER of each model."""
    rows = result["models"]
    names = [f"{row['name']} ({row['model_id'][:8]})" for row in rows]
    noise = f"noise from {result['noise']}/" if result["noise"] else "synthetic noise"
    lines = [
        f"EER on {result['recordings']:,} recordings of {result['speakers']:,} speakers kept out, clean and augmented ({noise})",
        "",
    ]
    wide = max(len(name) for name in [*names, "model"])
    lines.append(f"   {'model':{wide}}  {'mean':>8}  {'clean':>8}  {'augmented':>9}  folder")
    for place, (name, row) in enumerate(zip(names, rows, strict=True), start=1):
        rates = f"{row['eer']:8.2%}  {row['clean']:8.2%}  {row['augmented']:9.2%}"
        lines.append(f"{place:2} {name:{wide}}  {rates}  {row['model']}")
    sources = {source: "(no source)" if source == UNKNOWN else source for source in rows[0]["sources"]}
    wide = max(len(name) for name in sources.values())
    lines += ["", f"{'clean / augmented':{wide}}" + "".join(f"  {n:>15}" for n in range(1, len(rows) + 1))]
    for source, name in sources.items():
        cells = (row["sources"][source] for row in rows)
        lines.append(
            f"{name:{wide}}" + "".join(f"  {c['clean']:6.2%} / {c['augmented']:6.2%}" for c in cells)
        )
    return "\n".join(lines) + "\n"
