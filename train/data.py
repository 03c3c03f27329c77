"""Training speech: a manifest, decoded once into one memory-mapped file of 16-bit samples, and batches drawn from it.

A draw depends on (seed, step) alone, so a run that was killed continues with the very batches it would have seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from train.corpus import Utterance
from voicevault.audio import decode
from voicevault.cores import available_cores
from voicevault.errors import AudioError, ManifestError
from voicevault.types import SAMPLE_RATE, Float32Array

SKIPPED_FILE = "skipped.tsv"
HOPELESS = 200
"""Unusable recordings in front of the first usable one after which no more are tried."""
Int16Array = np.memmap | np.ndarray


def trim(samples: Float32Array, below_peak_db: float = 35.0) -> Float32Array:
    """Cuts what is quieter than that before the first and after the last loud 20 ms, and brings the rest to -26 dBFS RMS."""
    frame = SAMPLE_RATE // 50
    count = len(samples) // frame
    if count == 0:
        return samples
    energy = np.square(samples[: count * frame].reshape(count, frame)).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-below_peak_db / 10))
    kept = samples[max(0, loud[0] - 5) * frame : (loud[-1] + 6) * frame] if len(loud) else samples
    rms = float(np.sqrt(np.square(kept).mean()))
    scaled: Float32Array = np.clip(kept * (0.05 / max(rms, 1e-5)), -1.0, 1.0).astype(np.float32)
    return scaled


def decoded(path: Path) -> bytes | tuple[str, str]:
    """A recording, trimmed, as little-endian 16-bit samples; or code and message of why it cannot be used."""
    try:
        return bytes(np.round(trim(decode(path).samples) * 32767).astype("<i2").tobytes())
    except AudioError as error:
        return error.code, error.message


class SpeechCache:
    """All recordings of a corpus as int16 in one file, decoded at the first use and mapped afterwards: however large the corpus,
    it is read from disk where a crop lies."""

    def __init__(
        self,
        samples: Int16Array,
        utterances: list[Utterance],
        digest: str,
        skipped: int = 0,
        reasons: Path | None = None,
    ) -> None:
        self.samples = samples
        self.utterances = utterances
        self.digest = digest
        self.skipped = skipped
        self.reasons = reasons
        """Where stands why recordings were skipped: path, code and message, separated by tabs."""

    @classmethod
    def build(cls, utterances: Sequence[Utterance], root: Path, folder: Path) -> SpeechCache:
        """The cache of these recordings in a folder of its own below `folder`, made where it is missing.

        Unusable recordings are skipped and listed in its ``skipped.tsv``. The digest covers paths, labels and samples.

        Raises:
            ManifestError: Not one recording can be used, or not one of the first 200.
        """
        files = [(root / u.path).stat() for u in utterances]
        facts = [
            (u.path, u.speaker, u.source, u.session, file.st_size, file.st_mtime_ns)
            for u, file in zip(utterances, files, strict=True)
        ]
        own = folder / hashlib.sha256(json.dumps([str(root.absolute()), facts]).encode()).hexdigest()[:16]
        index, data = own / "speech.json", own / "speech.int16"
        if not index.exists():
            own.mkdir(parents=True, exist_ok=True)
            cls._decode(utterances, root, own, index, data)
        stored = json.loads(index.read_text(encoding="utf-8"))
        return cls(
            np.memmap(data, dtype="<i2", mode="r"),
            [Utterance(*row) for row in stored["utterances"]],
            stored["digest"],
            stored["skipped"],
            own / SKIPPED_FILE,
        )

    @staticmethod
    def _decode(utterances: Sequence[Utterance], root: Path, own: Path, index: Path, data: Path) -> None:
        digest, position, skipped = hashlib.sha256(), 0, 0
        kept: list[tuple[str | int, ...]] = []
        workers = available_cores()
        with (
            data.open("wb") as out,
            (own / SKIPPED_FILE).open("w", encoding="utf-8") as reasons,
            ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        ):
            paths = [root / u.path for u in utterances]
            # In slices, so that what is decoded ahead of the writing stays small.
            slices = range(0, len(paths), 64 * workers)
            results = (
                r for i in slices for r in pool.map(decoded, paths[i : i + 64 * workers], chunksize=16)
            )
            shown = track(results, "decoding", total=len(utterances), console=Console(stderr=True))
            for utterance, pcm in zip(utterances, shown, strict=True):
                if isinstance(pcm, tuple):
                    skipped += 1
                    reasons.write(f"{utterance.path}\t{pcm[0]}\t{pcm[1]}\n")
                    if not kept and skipped == min(HOPELESS, len(utterances)):
                        raise ManifestError(
                            f"not one of the first {skipped} recordings can be used; the last of them: {utterance.path}: {pcm[1]}"
                        )
                    continue
                digest.update(f"{utterance.path}\t{utterance.speaker}\n".encode())
                digest.update(pcm)
                out.write(pcm)
                stop = position + len(pcm) // 2
                kept.append(astuple(replace(utterance, start=position, stop=stop)))
                position = stop
        partial = index.with_suffix(".partial")
        stored = {"digest": digest.hexdigest(), "skipped": skipped, "utterances": kept}
        partial.write_text(json.dumps(stored), encoding="utf-8")
        partial.replace(index)

    def read(self, utterance: Utterance) -> Float32Array:
        return (self.samples[utterance.start : utterance.stop] / np.float32(32768)).astype(np.float32)


def one_name(alike: Sequence[Sequence[str]]) -> dict[str, str]:
    """Sources that were recorded alike, each with the name of the collection that they are together."""
    return {source: group[0] for group in alike for source in group}


class BatchSampler:
    """Two crops from different recordings (different sessions where there are several) of each drawn speaker: the first from
    the source that was drawn, the second from any source that has the speaker.

    Args:
        weights: Share of each source in a batch; sources left out are not drawn. Empty: every source by its speakers.
        alike: Sources that were recorded alike, which count as one collection.

    Raises:
        ManifestError: A source has no recording, or there are not two speakers to draw.
    """

    def __init__(
        self,
        cache: SpeechCache,
        utterances: Sequence[Utterance],
        weights: dict[str, float],
        seed: int,
        alike: Sequence[Sequence[str]] = (),
    ) -> None:
        self.cache, self.seed = cache, seed
        by_source: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
        for utterance in utterances:
            if not weights or utterance.source in weights:
                by_source[utterance.source][utterance.speaker].append(utterance)
        named = {source for group in alike for source in group}
        if missing := (weights.keys() - by_source.keys()) | (named - {u.source for u in utterances}):
            raise ManifestError(
                f"the manifest has no recording of these sources: {', '.join(sorted(missing))}"
            )
        weights = weights or {source: float(len(own)) for source, own in by_source.items()}
        self._recordings: dict[str, list[Utterance]] = defaultdict(list)
        for own in by_source.values():
            for speaker, recordings in own.items():
                self._recordings[speaker] += recordings
        self.classes = sorted(self._recordings)
        if len(self.classes) < 2:
            raise ManifestError("a training needs two speakers at least beside those that are kept out")
        self._class = {speaker: i for i, speaker in enumerate(self.classes)}
        self._sources = sorted(by_source)
        self._heard = by_source
        self._speakers = {source: sorted(by_source[source]) for source in self._sources}
        first = one_name(alike)
        of = {s: first.get(source, source) for source in self._sources for s in by_source[source]}
        numbers = {name: i for i, name in enumerate(sorted(set(of.values())))}
        self.collections = np.array([numbers[of[speaker]] for speaker in self.classes], np.int64)
        """int64 [speakers]: the number of the collection that each of `classes` belongs to."""
        total = sum(weights.values())
        self._shares = np.array([weights[s] / total for s in self._sources])

    def recordings(self, speaker: str) -> Sequence[Utterance]:
        """Those that a speaker's crops are drawn from."""
        return self._recordings[speaker]

    def draw(self, step: int, speakers: int, samples: int) -> tuple[Float32Array, np.ndarray]:
        """float32 [2 * speakers, samples] (the two crops of a speaker `speakers` rows apart) and int64 classes."""
        rng = np.random.default_rng((self.seed, step))
        chosen: dict[str, str] = {}
        while len(chosen) < speakers:
            source = self._sources[rng.choice(len(self._sources), p=self._shares)]
            speaker = self._speakers[source][rng.integers(len(self._speakers[source]))]
            chosen.setdefault(speaker, source)
        crops = np.zeros((2 * speakers, samples), np.float32)
        for row, (speaker, source) in enumerate(chosen.items()):
            recordings, drawn = self._recordings[speaker], self._heard[source][speaker]
            first = drawn[rng.integers(len(drawn))]
            others = [r for r in recordings if not _together(r, first)] or [
                r for r in recordings if r is not first
            ]
            second = others[rng.integers(len(others))] if others else first
            crops[row] = self._crop(first, recordings, samples, rng)
            crops[row + speakers] = self._crop(second, recordings, samples, rng)
        labels = np.array([self._class[s] for s in chosen], np.int64)
        return crops, np.concatenate([labels, labels])

    def _crop(
        self, utterance: Utterance, siblings: Sequence[Utterance], samples: int, rng: np.random.Generator
    ) -> Float32Array:
        """A random stretch; a recording that is too short is continued with others of its session, then repeated."""
        length = utterance.stop - utterance.start
        if length >= samples:
            start = utterance.start + int(rng.integers(length - samples + 1))
            return self.cache.samples[start : start + samples].astype(np.float32) / np.float32(32768)
        pieces = [self.cache.read(utterance)]
        same = [s for s in siblings if _together(s, utterance) and s is not utterance]
        for i in rng.permutation(len(same))[:8]:
            if sum(map(len, pieces)) >= samples:
                break
            pieces.append(self.cache.read(same[i]))
        joined = np.concatenate(pieces)
        if len(joined) < samples:
            joined = np.tile(joined, -(-samples // max(1, len(joined))))
        start = int(rng.integers(len(joined) - samples + 1))
        return joined[start : start + samples]


def _together(one: Utterance, other: Utterance) -> bool:
    """Whether two recordings are of one session."""
    return (one.source, one.session) == (other.source, other.session)
