"""Which pairs are compared."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from train.trials import Recording, Trials, all_pairs, contradictions, known_recordings, read_trials
from voicevault.errors import ManifestError

LISTS = {
    "VoxCeleb": "1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n\n1 b/1.wav b/2.wav\n",
    "Kaldi": "a/1.wav a/2.wav target\na/1.wav b/1.wav nontarget\nb/1.wav b/2.wav target\n",
    "CSV": "enroll,test,label\na/1.wav,a/2.wav,1\na/1.wav,b/1.wav,0\nb/1.wav,b/2.wav,target\n",
    "TSV": "label\tenroll\ttest\n1\ta/1.wav\ta/2.wav\n0\ta/1.wav\tb/1.wav\n1\tb/1.wav\tb/2.wav\n",
}


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list"
    path.write_text(text, encoding="utf-8")
    return path


def names(trials: Trials) -> list[tuple[bool, str, str]]:
    r = trials.recordings
    return [
        (bool(g), r[a].name, r[b].name)
        for g, a, b in zip(trials.genuine, trials.enroll, trials.test, strict=True)
    ]


@pytest.mark.parametrize("form", LISTS)
def test_every_form_of_list_gives_the_same_trials(form: str, tmp_path: Path) -> None:
    trials = read_trials(listed(tmp_path, LISTS[form]))
    assert names(trials) == [
        (True, "a/1.wav", "a/2.wav"),
        (False, "a/1.wav", "b/1.wav"),
        (True, "b/1.wav", "b/2.wav"),
    ]
    speakers = {r.name: r.speaker for r in trials.recordings}
    assert speakers["a/1.wav"] == speakers["a/2.wav"] != speakers["b/1.wav"] == speakers["b/2.wav"]
    assert contradictions(trials) == 0


def test_a_label_that_the_other_labels_contradict_is_counted(tmp_path: Path) -> None:
    trials = read_trials(listed(tmp_path, "1 a b\n1 b c\n0 a c\n0 a d\n"))
    assert contradictions(trials) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no trials"),
        ("1 a\n", "line 1"),
        ("1 a b\n\n2 a b\n", "line 3: '2' is no label"),
        ("label,enroll,test\n1,a\n", "line 2: 2 columns"),
        ('label,enroll,test\n1,a,"b\n0,a,c\n', "line 2: unexpected end"),
    ],
)
def test_a_list_that_is_none_says_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=message):
        read_trials(listed(tmp_path, text))


def test_a_recording_that_the_manifest_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"does not know 1 recordings .* first is b"):
        read_trials(
            listed(tmp_path, "1 a a2\n0 a b\n"), {"a": Recording("a", "x"), "a2": Recording("a2", "x")}
        )


def test_all_pairs_are_each_pair_once_without_copies_and_without_one_session() -> None:
    recordings = [
        Recording("a1", "a", "s", "f", "1"),
        Recording("a2", "a", "s", "f", "1"),
        Recording("a3", "a", "s", "f", "2"),
        Recording("b1", "b", "s", "m", "1"),
        Recording("b2", "b", "s", "m", "1"),
        Recording("c1", "c", "t", "f", "1"),
        Recording("c1 again", "c", "t", "f", "1"),
        Recording("d1", "d", "-", "-", "-"),
    ]
    hashes = [r.path.removesuffix(" again") for r in recordings]
    found = {frozenset((a, b)): g for g, a, b in names(all_pairs(recordings, hashes))}
    by_name = {r.path: r for r in recordings if "again" not in r.path}
    for a, b in combinations(by_name, 2):
        same = by_name[a].speaker == by_name[b].speaker
        # a has two sessions, so its two recordings of one are left out; b's are all there is.
        expected = None if {a, b} == {"a1", "a2"} else same
        assert found.get(frozenset((a, b))) is expected
    assert len(all_pairs(recordings, hashes)) == len(found)

    hard = [(a[0], b[0]) for g, a, b in names(all_pairs(recordings, hashes, ("source",))) if not g]
    assert set(hard) == {("a", "b")}
    assert {(a[0], b[0]) for g, a, b in names(all_pairs(recordings, hashes, ("gender",))) if not g} == {
        ("a", "c")
    }


def test_what_nobody_states_asks_nothing() -> None:
    recordings = [Recording(f"{s}{i}", s) for s in "ab" for i in range(2)]
    assert names(all_pairs(recordings, within=("source", "gender"))) == names(all_pairs(recordings))


def test_two_pieces_of_one_recording_are_a_pair() -> None:
    pieces = [Recording("a", "a", part=(i, 3)) for i in range(3)] + [Recording("b", "b")]
    trials = all_pairs(pieces, ["a", "a", "a", "b"])
    assert int(trials.genuine.sum()) == 3
    assert names(trials)[0] == (True, "a#1/3", "a#2/3")


def test_without_both_kinds_of_pairs_there_is_nothing_to_measure() -> None:
    with pytest.raises(ManifestError, match="two speakers"):
        all_pairs([Recording("a1", "a"), Recording("a2", "a")])
    with pytest.raises(ManifestError, match="two different recordings"):
        all_pairs([Recording("a1", "a"), Recording("b1", "b")])


def test_a_kaldi_folder_is_known_by_its_utterances(tmp_path: Path) -> None:
    for name in ("x.wav", "y.wav"):
        (tmp_path / name).touch()
    (tmp_path / "wav.scp").write_text("utt1 x.wav\nutt2 y.wav\n")
    (tmp_path / "utt2spk").write_text("utt1 anna\nutt2 ben\n")
    known = known_recordings(tmp_path)
    trials = read_trials(listed(tmp_path, "utt1 utt2 nontarget\n"), known)
    assert [(r.path, r.speaker) for r in trials.recordings] == [("x.wav", "anna"), ("y.wav", "ben")]


def test_a_table_with_tabs_has_no_quotes(tmp_path: Path) -> None:
    trials = read_trials(listed(tmp_path, 'label\tenroll\ttest\n1\t"a.wav\tb.wav\n'))
    assert [r.path for r in trials.recordings] == ['"a.wav', "b.wav"]


def test_gender_is_known_of_absolute_paths_too(tmp_path: Path) -> None:
    for name in ("x.wav", "y.wav"):
        (tmp_path / name).touch()
    rows = [f"{tmp_path / 'x.wav'}\tanna\tf", "y.wav\tben\tm"]
    (tmp_path / "m.tsv").write_text("\n".join(["path\tspeaker\tgender", *rows, ""]))
    assert {name: r.gender for name, r in known_recordings(tmp_path / "m.tsv").items()} == {
        "x.wav": "f", "y.wav": "m",
    }  # fmt: skip


def test_columns_and_codes_follow_the_recordings() -> None:
    trials = all_pairs([Recording("a1", "a"), Recording("a2", "a"), Recording("b1", "b")])
    assert trials.column("speaker").tolist() == ["a", "a", "b"]
    pairs = trials.speaker_codes()
    assert np.array_equal(pairs[:, 0] == pairs[:, 1], trials.genuine)
    assert len(trials.chosen(trials.genuine)) == 1
