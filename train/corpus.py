"""Which recordings a training hears: manifests in the field's forms, checked before any time is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voicevault.errors import ManifestError
from voicevault.manifest import read_corpus
from voicevault.types import ManifestRow

UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of the corpus: `start` and `stop` are samples in the cache."""

    path: str
    speaker: str
    source: str
    session: str
    start: int = 0
    stop: int = 0


def read_manifest(path: Path, root: Path | None = None) -> list[Utterance]:
    """The recordings of a corpus.

    Args:
        path: A TSV, CSV or JSON-lines manifest (`voicevault.manifest`; the columns ``source`` and ``session`` are used where
            they are there), a Kaldi data folder (``wav.scp`` and ``utt2spk``), or a folder ``speaker/recording``, whose
            folders in between, as VoxCeleb has them, are sessions.
        root: What relative paths start from, and what `Utterance.path` is relative to; by default where the manifest is.

    Raises:
        ManifestError: It cannot be read, recordings are missing, or there are not two speakers.
    """
    base = root or (path if path.is_dir() else path.parent)
    if (path / "wav.scp").is_file():
        rows = _kaldi(path, base)
    elif path.is_dir():
        rows = [_with_session(row, path) for row in read_corpus(path)]
    else:
        rows = read_corpus(path, base)
    _check(rows, path)
    return [
        Utterance(
            str(row.path.relative_to(base) if row.path.is_relative_to(base) else row.path),
            row.speaker,
            str(row.attributes.get("source") or UNKNOWN),
            str(row.attributes.get("session") or UNKNOWN),
        )
        for row in rows
    ]


def _check(rows: Sequence[ManifestRow], path: Path) -> None:
    missing = [str(row.path) for row in rows if not row.path.is_file()]
    if missing:
        raise ManifestError(
            f"{path} names {len(missing)} recordings that are not there, the first of them {missing[0]};"
            " correct the paths, or name the folder that they start from",
            missing=missing[:20],
        )
    twice = [name for name, count in Counter(str(row.path) for row in rows).items() if count > 1]
    if twice:
        raise ManifestError(f"{path} names {twice[0]} twice; one recording has one speaker", twice=twice[:20])
    speakers = {row.speaker for row in rows}
    if len(speakers) < 2:
        raise ManifestError(
            f"{path} has recordings of one speaker only; a training needs several to tell apart"
        )


def _with_session(row: ManifestRow, root: Path) -> ManifestRow:
    between = row.path.relative_to(root).parts[1:-1]
    return ManifestRow(row.path, row.speaker, attributes={"session": "/".join(between)} if between else {})


def _kaldi(folder: Path, base: Path) -> list[ManifestRow]:
    if (folder / "segments").exists():
        raise ManifestError(f"{folder} has a segments file; cut the recordings into files of their own first")
    speakers = dict(_pairs(folder / "utt2spk"))
    rows = []
    for utterance, source in _pairs(folder / "wav.scp"):
        if source.endswith("|"):
            raise ManifestError(
                f"{folder}/wav.scp: {utterance} is a command, and none is run; write files first"
            )
        if utterance not in speakers:
            raise ManifestError(f"{folder}/utt2spk does not say who speaks in {utterance}")
        rows.append(ManifestRow(base / source, speakers[utterance]))
    return rows


def _pairs(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        key, _, value = line.strip().partition(" ")
        if not key:
            continue
        if not value.strip():
            raise ManifestError(f"{path}, line {number}: two columns are needed, separated by a space")
        pairs.append((key, value.strip()))
    return pairs
