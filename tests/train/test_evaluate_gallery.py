"""Voiceprints, probes and groups, on embeddings made up so that the answers are known."""

from __future__ import annotations

import numpy as np

from train.evaluate_embed import Embedded
from train.evaluate_gallery import build_gallery, enrollment_table, identification_result
from train.evaluate_groups import duration_bins, group_masks, group_table
from train.trials import Recording, all_pairs


def people(speakers: int, each: int, noise: float, sessions: int = 1) -> tuple[list[Recording], Embedded]:
    random = np.random.default_rng(3)
    recordings, rows = [], []
    for s in range(speakers):
        centre = random.normal(size=16)
        for i in range(each):
            source, gender = f"source {s % 2}", "fm"[s // 2 % 2]
            recordings.append(Recording(f"{s}/{i}", f"s{s}", source, gender, str(i % sessions)))
            rows.append(centre + noise * random.normal(size=16))
    vectors = np.array(rows, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    seconds = np.tile([0.6, 1.5, 3.0], len(rows))[: len(rows)]
    return recordings, Embedded(vectors, seconds, seconds, tuple(r.name for r in recordings), {})


def test_a_voiceprint_is_the_normalised_mean_and_probes_stay_the_same() -> None:
    recordings, embedded = people(6, 8, noise=1.0)
    one = build_gallery(recordings, embedded, enrollments=1, reserve=5)
    five = build_gallery(recordings, embedded, enrollments=5, reserve=5)
    everything = build_gallery(recordings, embedded, enrollments=7, reserve=7)
    assert one is not None and five is not None and everything is not None
    assert one.scores.shape == five.scores.shape == (18, 6)
    assert np.array_equal(one.truth, five.truth)
    genuine = one.truth[:, None] == np.arange(6)
    assert five.scores[genuine].mean() > one.scores[genuine].mean() + 0.05
    for place in range(6):
        # Seven of eight recordings are enrolled: the probe is the one whose absence gives the score.
        own = embedded.vectors[8 * place : 8 * place + 8].astype(np.float64)
        rests = [own.sum(axis=0) - probe for probe in own]
        possible = [probe @ rest / np.linalg.norm(rest) for probe, rest in zip(own, rests, strict=True)]
        found = everything.scores[int(np.flatnonzero(everything.truth == place)[0]), place]
        assert min(abs(found - value) for value in possible) < 1e-6


def test_trials_within_a_session_and_across_sources_are_not_fair() -> None:
    recordings, embedded = people(6, 8, noise=1.0, sessions=2)
    gallery = build_gallery(recordings, embedded, enrollments=1, reserve=5)
    assert gallery is not None
    scores, genuine, speakers = gallery.pairs()
    assert np.array_equal(speakers[:, 0] == speakers[:, 1], genuine)
    assert 0 < genuine.sum() < 18  # of 18 probes, some are of the enrollment's session
    assert (speakers[:, 0] % 2 == speakers[:, 1] % 2).all()  # s0, s2, s4 are of one source
    assert len(scores) == int(gallery.fair.sum())


def test_copies_and_unusable_recordings_take_no_part() -> None:
    recordings, embedded = people(3, 4, noise=0.5)
    copied = Embedded(
        embedded.vectors,
        embedded.seconds,
        embedded.speech_seconds,
        ("same", "same", *embedded.audio_sha256[2:]),
        {},
    )
    gallery = build_gallery(recordings, copied, enrollments=3, reserve=3)
    assert gallery is not None and len(gallery.speakers) == 2  # the first has three different recordings left
    assert build_gallery(recordings, embedded, enrollments=4, reserve=4) is None


def test_more_enrollments_and_better_models_do_better() -> None:
    recordings, embedded = people(24, 8, noise=1.6)
    rows = enrollment_table(recordings, embedded, {"fmr_1pct": 0.5})
    assert [row["enrollments"] for row in rows] == [1, 3, 5]
    assert rows[0]["eer"] > rows[2]["eer"]
    # A voiceprint scores higher with strangers too: the pairs' threshold lets more of them through.
    assert rows[2]["at"]["fmr_1pct"]["fnmr"] < rows[0]["at"]["fmr_1pct"]["fnmr"]
    found = identification_result(recordings, embedded)
    assert (found["gallery"], found["enrollments"], found["open_set"]["strangers"]) == (24, 3, 8)
    assert found["rank_accuracy"] == sorted(found["rank_accuracy"])
    clear = identification_result(*people(24, 8, noise=0.1))
    assert clear["rank_accuracy"][0] == 1.0
    assert clear["open_set"]["rates"][0]["dir"] == 1.0
    few = identification_result(*people(1, 8, noise=0.1))
    assert "fewer than two speakers" in few["reason"]


def test_groups_hold_the_trials_that_their_names_say() -> None:
    recordings, embedded = people(8, 3, noise=1.0)
    trials = all_pairs(recordings)
    masks = {name: mask for _, name, mask in group_masks(trials, embedded)}
    for name, fields in (
        ("same source", ["source"]),
        ("same gender", ["gender"]),
        ("same source and gender", ["source", "gender"]),
    ):
        for mask, genuine, a, b in zip(masks[name], trials.genuine, trials.enroll, trials.test, strict=True):
            alike = all(getattr(recordings[a], f) == getattr(recordings[b], f) for f in fields)
            assert mask == (genuine or alike)
    assert set(np.unique(duration_bins(trials, embedded))) == {0, 1, 2}
    assert sum(masks[name].sum() for name in ("0 to 1 s", "1 to 2 s", "2 to 4 s")) == len(trials)
    scores = np.linspace(-1, 1, len(trials))
    table = group_table(scores, trials, embedded, trials.speaker_codes(), {})
    by_name = {row["group"]: row for row in table}
    assert by_name["f"]["impostor"] + by_name["m"]["impostor"] == by_name["same gender"]["impostor"]
    assert "4 to 8 s" not in by_name
    # Bin 2 holds the third recordings alone, no two of one speaker.
    assert by_name["2 to 4 s"]["eer"] is None and by_name["2 to 4 s"]["reason"] == "no genuine trials"
