"""What is compared with what: trial lists (VoxCeleb, Kaldi, CSV) and all pairs of a set of recordings."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from train.corpus import UNKNOWN
from voicevault.errors import ManifestError
from voicevault.types import Int64Array

_LABELS = {"1": True, "target": True, "true": True, "0": False, "nontarget": False, "false": False}


@dataclass(frozen=True, slots=True)
class Recording:
    """One side of a trial.

    Attributes:
        path: As the list names it, relative to the audio root.
        speaker, source, gender, session: ``-`` where unknown.
        part: (i, n): the i-th of n equal pieces of the file; (0, 1) is all of it.
    """

    path: str
    speaker: str = UNKNOWN
    source: str = UNKNOWN
    gender: str = UNKNOWN
    session: str = UNKNOWN
    part: tuple[int, int] = (0, 1)

    @property
    def name(self) -> str:
        """The path, and which piece of it where it is one."""
        i, n = self.part
        return self.path if n == 1 else f"{self.path}#{i + 1}/{n}"


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Trials between recordings.

    Attributes:
        recordings: Each once.
        enroll, test: int64 [n], places in `recordings`.
        genuine: bool [n], true where both sides are one speaker.
    """

    recordings: tuple[Recording, ...]
    enroll: Int64Array
    test: Int64Array
    genuine: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.genuine)

    def chosen(self, mask: NDArray[np.bool_]) -> Trials:
        """The trials where `mask` [n] is true; the recordings stay."""
        return Trials(self.recordings, self.enroll[mask], self.test[mask], self.genuine[mask])

    def speaker_pairs(self) -> list[tuple[str, str]]:
        """The two speakers of each trial."""
        names = [recording.speaker for recording in self.recordings]
        return [(names[a], names[b]) for a, b in zip(self.enroll.tolist(), self.test.tolist(), strict=True)]

    def speaker_codes(self) -> Int64Array:
        """The two speakers of each trial as numbers, int64 [n, 2]."""
        codes = _codes(self.recordings, "speaker")
        return np.stack([codes[self.enroll], codes[self.test]], axis=1)

    def column(self, field: str) -> NDArray[np.str_]:
        """That attribute of every recording, as str [recordings]."""
        return np.array([getattr(recording, field) for recording in self.recordings], dtype=np.str_)


def read_trials(path: Path, known: Mapping[str, Recording] | None = None) -> Trials:
    """A list of trials, all kept, in order.

    Lines are ``label path path`` (VoxCeleb), ``path path target|nontarget`` (Kaldi), or a comma- or
    tab-separated table with a header that names the columns label, enroll and test. Labels are 1 or target,
    0 or nontarget.

    Where the speakers are not `known`, they are taken from the list itself: recordings that same-speaker
    trials connect are of one speaker.

    Args:
        path: The list.
        known: What a manifest says of each path.

    Raises:
        ManifestError: The list cannot be read, or contradicts the manifest; with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"The trial list {path} cannot be read: {error}.", path=str(path)) from error
    places: dict[str, int] = {}
    sides: list[tuple[int, int]] = []
    labels: list[bool] = []
    for line, (label, first, second) in _rows(path, lines):
        if label.lower() not in _LABELS:
            _fail(path, line, f"{label!r} is no label; 1 or target, 0 or nontarget are")
        sides.append((places.setdefault(first, len(places)), places.setdefault(second, len(places))))
        labels.append(_LABELS[label.lower()])
    if not sides:
        raise ManifestError(f"The trial list {path} holds no trials.", path=str(path))
    pairs = np.array(sides, dtype=np.int64)
    genuine = np.array(labels, dtype=np.bool_)
    if known is None:
        speakers = _connected(len(places), pairs[genuine])
        recordings = tuple(Recording(name, f"speaker-{s}") for name, s in zip(places, speakers, strict=True))
    else:
        if missing := [name for name in places if name not in known]:
            raise ManifestError(
                f"The manifest does not know {len(missing)} recordings of {path}, the first is {missing[0]}.",
                missing=missing[:20],
            )
        recordings = tuple(known[name] for name in places)
    return Trials(recordings, pairs[:, 0], pairs[:, 1], genuine)


def contradictions(trials: Trials) -> int:
    """How many trials have a label that their speakers contradict."""
    pairs = trials.speaker_codes()
    return int(((pairs[:, 0] == pairs[:, 1]) != trials.genuine).sum())


def all_pairs(
    recordings: Sequence[Recording],
    audio_sha256: Sequence[str] | None = None,
    within: Collection[str] = (),
) -> Trials:
    """Every pair of different recordings once, without a recording's own copies.

    Pairs of one speaker inside one session are left out where that speaker has several sessions: the channel
    gives the speaker away there.

    Args:
        recordings: Speakers known.
        audio_sha256: Hash of the decoded audio of each; equal ones are copies, of which the first counts.
        within: Attributes (``source``, ``gender``) that the two of a different-speaker pair must share; a
            pair of which one is unknown is left out. One that is unknown of all recordings asks nothing.

    Raises:
        ManifestError: There is no pair of one speaker, or none of two.
    """
    kept = list(range(len(recordings)))
    if audio_sha256 is not None:
        first: dict[tuple[str, tuple[int, int]], int] = {}
        for i, (recording, digest) in enumerate(zip(recordings, audio_sha256, strict=True)):
            first.setdefault((digest, recording.part), i)
        kept = sorted(first.values())
    speaker, session = _codes(recordings, "speaker"), _codes(recordings, "session")
    several = np.zeros(len(recordings), dtype=np.bool_)
    for code in np.unique(speaker):
        own = speaker == code
        several[own] = len(np.unique(session[own])) > 1
    rows = np.array(kept, dtype=np.int64)
    enroll, test = (rows[side] for side in np.triu_indices(len(rows), 1))
    same = speaker[enroll] == speaker[test]
    fair = ~same | ~several[enroll] | (session[enroll] != session[test])
    for field in stated(recordings, within):
        codes = _codes(recordings, field)
        known = np.array([getattr(r, field) != UNKNOWN for r in recordings], dtype=np.bool_)
        fair &= same | ((codes[enroll] == codes[test]) & known[enroll])
    trials = Trials(tuple(recordings), enroll[fair], test[fair], same[fair])
    if trials.genuine.all() or not trials.genuine.any():
        raise ManifestError(
            "All pairs need at least two speakers and one speaker with two different recordings.",
            same_speaker_pairs=int(trials.genuine.sum()),
            different_speaker_pairs=int((~trials.genuine).sum()),
        )
    return trials


def stated(recordings: Sequence[Recording], fields: Collection[str]) -> list[str]:
    """Those of the attributes that at least one recording has."""
    return [field for field in fields if any(getattr(r, field) != UNKNOWN for r in recordings)]


def read_recordings(manifest: Path, root: Path | None = None) -> list[Recording]:
    """The recordings of a manifest, with source, gender and session where it has these columns.

    Args:
        manifest: See `train.corpus.read_manifest`.
        root: What relative paths start from; by default where the manifest is.

    Raises:
        ManifestError: It cannot be read, recordings are missing, or there are not two speakers.
    """
    return list(known_recordings(manifest, root).values())


def known_recordings(manifest: Path, root: Path | None = None) -> dict[str, Recording]:
    """`read_recordings` by what a trial list calls them: utterance ids for a Kaldi folder, else paths."""
    from train.corpus import read_manifest
    from voicevault.manifest import read_corpus

    utterances = read_manifest(manifest, root)
    genders = [UNKNOWN] * len(utterances)
    if manifest.is_file():
        genders = [str(row.attributes.get("gender") or UNKNOWN) for row in read_corpus(manifest, Path())]
    recordings = [
        Recording(u.path, u.speaker, u.source, gender, u.session)
        for u, gender in zip(utterances, genders, strict=True)
    ]
    if (manifest / "wav.scp").is_file():
        lines = (manifest / "wav.scp").read_text(encoding="utf-8").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        return dict(zip(names, recordings, strict=True))
    return {recording.path: recording for recording in recordings}


def _codes(recordings: Sequence[Recording], field: str) -> Int64Array:
    names = np.array([getattr(r, field) for r in recordings], dtype=np.str_)
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _rows(path: Path, lines: Sequence[str]) -> list[tuple[int, tuple[str, str, str]]]:
    """(line number, (label, enroll, test)) of each trial, whichever format it is."""
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        return []
    head = numbered[0][1]
    delimiter = "," if "," in head else "\t"
    names = [cell.strip().lower() for cell in head.split(delimiter)]
    rows: list[tuple[int, tuple[str, str, str]]] = []
    if {"label", "enroll", "test"} <= set(names):
        where = [names.index(name) for name in ("label", "enroll", "test")]
        for number, line in numbered[1:]:
            try:
                cells = line.split("\t") if delimiter == "\t" else next(csv.reader([line], strict=True))
            except csv.Error as error:
                _fail(path, number, str(error))
            if len(cells) != len(names):
                _fail(path, number, f"{len(cells)} columns, expected {len(names)}")
            label, first, second = (cells[i].strip() for i in where)
            rows.append((number, (label, first, second)))
        return rows
    last = numbered[0][1].split()
    kaldi = len(last) == 3 and last[2].lower() in ("target", "nontarget")
    for number, line in numbered:
        cells = line.split()
        if len(cells) != 3:
            _fail(path, number, "expected 'label path path', 'path path target|nontarget' or a table header")
        label, first, second = (cells[2], cells[0], cells[1]) if kaldi else (cells[0], cells[1], cells[2])
        rows.append((number, (label, first, second)))
    return rows


def _connected(count: int, pairs: Int64Array) -> list[int]:
    """The component of each of `count` nodes under the edges `pairs` [m, 2], named by its lowest node."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for a, b in pairs.tolist():
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return [find(node) for node in range(count)]


def _fail(path: Path, line: int, what: str) -> NoReturn:
    raise ManifestError(f"{path}, line {line}: {what}.", path=str(path), line=line)
