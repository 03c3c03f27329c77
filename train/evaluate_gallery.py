"""Voiceprints against probes: what more enrollments are worth, and how well a search finds its speaker."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.corpus import UNKNOWN
from train.evaluate_embed import Embedded
from train.evaluate_groups import rates
from train.trials import Recording
from voicevault.scoring.identification import open_set_rates, rank_accuracy
from voicevault.types import Int64Array

COUNTS = (1, 3, 5)
FPIRS = (0.1, 0.01)


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Voiceprints and the probes that are compared with them.

    Attributes:
        scores: float64 [m, N] cosines.
        truth: int64 [m], the voiceprint of each probe's speaker, -1 where none is of them.
        fair: bool [m, N], false for a speaker's own pair within one session, where they have several, and
            for pairs of two sources.
        probe_speakers: int64 [m], a number per speaker, of the same numbers as `speakers`.
        speakers: int64 [N].
    """

    scores: NDArray[np.float64]
    truth: Int64Array
    fair: NDArray[np.bool_]
    probe_speakers: Int64Array
    speakers: Int64Array

    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], Int64Array]:
        """Every fair voiceprint and probe as a trial: scores [n], genuine [n], speakers [n, 2]."""
        probe, print_ = np.nonzero(self.fair)
        both = np.stack([self.speakers[print_], self.probe_speakers[probe]], axis=1)
        return self.scores[probe, print_], self.truth[probe] == print_, both


def build_gallery(
    recordings: Sequence[Recording],
    embedded: Embedded,
    *,
    enrollments: int,
    reserve: int,
    strangers: float = 0.0,
) -> Gallery | None:
    """Voiceprints of speakers with more than `reserve` recordings, of the first `enrollments` of them; the
    recordings after `reserve` are probes, so that they are the same for each number of enrollments.

    The order of a speaker's recordings, and who stays out, are drawn by a hash of their names. A voiceprint is
    the normalised mean of its enrollments, as in a vault.

    Args:
        strangers: Share of the speakers that are not enrolled, but probe.

    Returns:
        None where fewer than two speakers have recordings enough.
    """
    own: dict[str, list[int]] = defaultdict(list)
    heard: set[tuple[str, tuple[int, int]]] = set()
    for i, recording in enumerate(recordings):
        key = (embedded.audio_sha256[i], recording.part)
        if i in embedded.failures or key in heard:
            continue  # a copy would be enrolled and probed
        heard.add(key)
        own[recording.speaker].append(i)
    usable = sorted((s for s, rows in own.items() if len(rows) > reserve), key=_draw)
    out = set(usable[: int(len(usable) * strangers)])
    enrolled = sorted(set(usable) - out)
    if len(enrolled) < 2:
        return None
    ordered = {s: sorted(own[s], key=lambda i: _draw(recordings[i].name)) for s in usable}
    codes = {s: i for i, s in enumerate(sorted(usable))}
    prints, probes, truth = [], [], []
    for place, speaker in enumerate(enrolled):
        prints.append(embedded.vectors[ordered[speaker][:enrollments]].sum(axis=0, dtype=np.float64))
        probes += ordered[speaker][reserve:]
        truth += [place] * len(ordered[speaker][reserve:])
    for speaker in sorted(out):
        probes += ordered[speaker][reserve:]
        truth += [-1] * len(ordered[speaker][reserve:])
    voiceprints = np.stack([row / np.linalg.norm(row) for row in prints])
    fair = np.ones((len(probes), len(enrolled)), dtype=np.bool_)
    sources = np.array([recordings[i].source for i in probes])
    sessions = np.array([recordings[i].session for i in probes])
    for place, speaker in enumerate(enrolled):
        used = [recordings[i] for i in ordered[speaker][:enrollments]]
        several = len({recordings[i].session for i in own[speaker]}) > 1
        same = np.array(truth) == place
        if used[0].source != UNKNOWN:
            fair[:, place] &= same | (sources == used[0].source)
        if several:
            fair[:, place] &= ~(same & np.isin(sessions, [r.session for r in used]))
    return Gallery(
        scores=np.clip(embedded.vectors[probes].astype(np.float64) @ voiceprints.T, -1.0, 1.0),
        truth=np.array(truth, dtype=np.int64),
        fair=fair,
        probe_speakers=np.array([codes[recordings[i].speaker] for i in probes], dtype=np.int64),
        speakers=np.array([codes[s] for s in enrolled], dtype=np.int64),
    )


def enrollment_table(
    recordings: Sequence[Recording], embedded: Embedded, thresholds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """`rates` by number of enrollments, over the same probes; impostors are of the voiceprint's source."""
    rows = []
    for count in COUNTS:
        gallery = build_gallery(recordings, embedded, enrollments=count, reserve=max(COUNTS))
        if gallery is None:
            reason = f"fewer than two speakers with {max(COUNTS) + 1} recordings"
            rows.append({"enrollments": count, "trials": 0, "eer": None, "reason": reason})
            continue
        scores, genuine, speakers = gallery.pairs()
        rows.append({"enrollments": count, **rates(scores, genuine, speakers, thresholds)})
    return rows


def identification_result(
    recordings: Sequence[Recording], embedded: Embedded, *, enrollments: int = 3
) -> dict[str, Any]:
    """Closed-set rank-1 to rank-10 accuracy and open-set rates, a third of the speakers being strangers."""
    counts: dict[str, int] = defaultdict(int)
    for recording in recordings:
        counts[recording.speaker] += 1
    while enrollments > 1 and sum(n > enrollments for n in counts.values()) < 6:
        enrollments -= 1
    everybody = build_gallery(recordings, embedded, enrollments=enrollments, reserve=enrollments)
    known = build_gallery(
        recordings, embedded, enrollments=enrollments, reserve=enrollments, strangers=1.0 / 3.0
    )
    if everybody is None or known is None:
        return {"enrollments": enrollments, "reason": "fewer than two speakers with recordings enough"}
    accuracy = rank_accuracy(everybody.scores, everybody.truth)
    return {
        "enrollments": enrollments,
        "gallery": len(everybody.speakers),
        "probes": len(everybody.truth),
        "rank_accuracy": accuracy[:10].tolist(),
        "open_set": {
            "gallery": len(known.speakers),
            "probes_of_enrolled": int((known.truth >= 0).sum()),
            "probes_of_strangers": int((known.truth < 0).sum()),
            "strangers": len(set(known.probe_speakers[known.truth < 0].tolist())),
            "rates": [asdict(row) for row in open_set_rates(known.scores, known.truth, FPIRS)],
        },
    }


def _draw(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
