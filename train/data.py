"""Training speech: a manifest, decoded once into one memory-mapped file of 16-bit samples, and batches drawn from it.

A draw depends on (seed, step) alone, so a run that was killed continues with the very batches it would have seen.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from voicevault.audio import decode
from voicevault.errors import AudioError, ManifestError
from voicevault.types import SAMPLE_RATE, Float32Array

Int16Array = np.memmap | np.ndarray


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of the corpus: `start` and `stop` are samples in the cache."""

    path: str
    speaker: str
    source: str
    session: str
    start: int = 0
    stop: int = 0


def read_manifest(path: Path) -> list[Utterance]:
    """A TSV with a header and the columns path, speaker and, where known, source and session."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    if not rows or not {"path", "speaker"} <= rows[0].keys():
        raise ManifestError(
            f"{path} needs a header row with at least the columns path and speaker, separated by tabs"
        )
    return [Utterance(r["path"], r["speaker"], r.get("source") or "-", r.get("session") or "-") for r in rows]


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


class SpeechCache:
    """All recordings of a manifest as int16 in one file, decoded at the first use and mapped afterwards."""

    def __init__(self, samples: Int16Array, utterances: list[Utterance], digest: str) -> None:
        self.samples = samples
        self.utterances = utterances
        self.digest = digest

    @classmethod
    def build(cls, utterances: Sequence[Utterance], root: Path, folder: Path) -> SpeechCache:
        """Unusable recordings are skipped and listed in ``skipped.tsv``. The digest covers paths, labels and samples."""
        folder.mkdir(parents=True, exist_ok=True)
        index, data = folder / "speech.json", folder / "speech.int16"
        if not index.exists():
            digest, kept, position = hashlib.sha256(), [], 0
            with data.open("wb") as out, (folder / "skipped.tsv").open("w", encoding="utf-8") as skipped:
                for utterance in track(utterances, description="decoding"):
                    try:
                        samples = decode(root / utterance.path).samples
                    except AudioError as error:
                        skipped.write(f"{utterance.path}\t{error.code}\t{error.message}\n")
                        continue
                    pcm = np.round(trim(samples) * 32767).astype("<i2").tobytes()
                    digest.update(f"{utterance.path}\t{utterance.speaker}\n".encode())
                    digest.update(pcm)
                    out.write(pcm)
                    stop = position + len(pcm) // 2
                    kept.append(
                        [
                            utterance.path,
                            utterance.speaker,
                            utterance.source,
                            utterance.session,
                            position,
                            stop,
                        ]
                    )
                    position = stop
            partial = index.with_suffix(".partial")
            partial.write_text(
                json.dumps({"digest": digest.hexdigest(), "utterances": kept}), encoding="utf-8"
            )
            partial.replace(index)
        stored = json.loads(index.read_text(encoding="utf-8"))
        return cls(
            np.memmap(data, dtype="<i2", mode="r"),
            [Utterance(*row) for row in stored["utterances"]],
            stored["digest"],
        )

    def read(self, utterance: Utterance) -> Float32Array:
        return (self.samples[utterance.start : utterance.stop] / np.float32(32768)).astype(np.float32)


class BatchSampler:
    """Two crops from different recordings (different sessions where there are several) of each drawn speaker.

    Args:
        weights: Share of each source in a batch; sources left out are not drawn.
    """

    def __init__(
        self,
        cache: SpeechCache,
        utterances: Sequence[Utterance],
        weights: dict[str, float],
        seed: int,
    ) -> None:
        self.cache, self.seed = cache, seed
        by_source: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
        for utterance in utterances:
            if utterance.source in weights:
                by_source[utterance.source][utterance.speaker].append(utterance)
        if missing := weights.keys() - by_source.keys():
            raise ManifestError(
                f"the manifest has no recording of these sources: {', '.join(sorted(missing))}"
            )
        self.classes = sorted({s for speakers_ in by_source.values() for s in speakers_})
        self._class = {speaker: i for i, speaker in enumerate(self.classes)}
        self._sources = sorted(by_source)
        self._speakers = {source: sorted(by_source[source]) for source in self._sources}
        self._recordings = {s: r for speakers_ in by_source.values() for s, r in speakers_.items()}
        total = sum(weights.values())
        self._shares = np.array([weights[s] / total for s in self._sources])

    def draw(self, step: int, speakers: int, samples: int) -> tuple[Float32Array, np.ndarray]:
        """float32 [2 * speakers, samples] (the two crops of a speaker `speakers` rows apart) and int64 classes."""
        rng = np.random.default_rng((self.seed, step))
        chosen: list[str] = []
        while len(chosen) < speakers:
            source = self._sources[rng.choice(len(self._sources), p=self._shares)]
            speaker = self._speakers[source][rng.integers(len(self._speakers[source]))]
            if speaker not in chosen:
                chosen.append(speaker)
        crops = np.zeros((2 * speakers, samples), np.float32)
        for row, speaker in enumerate(chosen):
            recordings = self._recordings[speaker]
            first = recordings[rng.integers(len(recordings))]
            others = [r for r in recordings if r.session != first.session] or [
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
        same = [s for s in siblings if s.session == utterance.session and s is not utterance]
        for i in rng.permutation(len(same))[:8]:
            if sum(map(len, pieces)) >= samples:
                break
            pieces.append(self.cache.read(same[i]))
        joined = np.concatenate(pieces)
        if len(joined) < samples:
            joined = np.tile(joined, -(-samples // max(1, len(joined))))
        start = int(rng.integers(len(joined) - samples + 1))
        return joined[start : start + samples]
