"""``speakers duplicates``: one person under two names?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from voicevault.cli import render
from voicevault.cli.command import CollectionOption, Session, ThresholdOption


def duplicates(
    session: Session,
    collection: CollectionOption = "default",
    threshold: ThresholdOption = None,
    fmr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Or name pairs at this false match rate of one comparison; by default 0.01 over the number of speakers.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many pairs, the best.")] = 100,
) -> None:
    """Name pairs of speakers who may be one person: everybody is compared with everybody."""
    with session.vault() as vault:
        found = vault.duplicates(collection=collection, threshold=threshold, fmr=fmr, most=limit)
    decided_by = asdict(found.threshold)
    rows = [(f"{p.score:.3f}", p.speaker_id, p.name, p.other_id, p.other_name) for p in found.pairs]
    columns = ("score", "speaker", "name", "other", "other name")
    nobody = f"No two of the {found.gallery:,} speakers in {collection!r} are that much alike."
    session.answer(
        {
            "pairs": [asdict(pair) for pair in found.pairs],
            "threshold": decided_by,
            "gallery": found.gallery,
            "collection": found.collection,
            "generation": found.generation,
        },
        render.table(columns, rows, numbers=("score",)) if rows else nobody,
        "",
        render.decided_by(decided_by),
    )
