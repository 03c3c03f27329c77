"""Bulk enrollment: what becomes of each recording, and that nothing a recording or a signal does loses anything."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import soundfile

from voicevault.audio import AudioLimits, SpeechDetector, decode
from voicevault.bulk import enroll_many
from voicevault.bulk.decoder import Decoder
from voicevault.bulk.flow import Pool
from voicevault.bulk.permits import Permit, Permits
from voicevault.bulk.stages import Prepared, embed_batch, prepare_batch
from voicevault.embedding import CONTEXT, EmbeddingPipeline, PreparedRecording, prepare
from voicevault.errors import RequestError, VoicevaultError
from voicevault.settings import Settings
from voicevault.store import Store
from voicevault.types import (
    SAMPLE_RATE,
    DuplicatePolicy,
    Float32Array,
    ManifestRow,
    Quality,
    RowOutcome,
    Segment,
)
from voicevault.vault import Vault

HOOK = '''
"""Runs at the start of each Python process: the decoder then does what the name of the recording says."""
import ctypes, os, pathlib, resource, time
import voicevault.embedding as embedding
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
decode = embedding.decode
def follow(source, **options):
    path = pathlib.Path(str(source))
    if path.name.startswith("segfault"):
        ctypes.string_at(0)
    if path.name.startswith("exit"):
        os._exit(3)
    if path.name.startswith("hang"):
        time.sleep(600)
    mark = path.with_suffix(".seen")
    if path.name.startswith("once") and not mark.exists():
        mark.touch()
        os.abort()
    if "DECODE_NOTHING" in os.environ:
        os._exit(4)
    return decode(source, **options)
embedding.decode = follow
'''


@pytest.fixture(scope="module")
def speech(voices: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Four speakers with three recordings each that hold more than two seconds of speech."""
    detector, limits = SpeechDetector(), AudioLimits()
    found: dict[str, list[Path]] = {}
    for speaker, files in voices.items():
        long = [f for f in files if soundfile.info(f).duration > 3][:4]
        fit = [f for f in long if prepare(f, detector, limits).quality.speech_seconds > 2.2][:3]
        if len(fit) == 3:
            found[speaker] = fit
        if len(found) == 4:
            return found
    pytest.skip("fewer than four speakers have three recordings of two seconds of speech")


@pytest.fixture
def vault(tmp_path: Path, tiny_model: Path) -> Iterator[Vault]:
    with Vault.open(Settings(home=tmp_path / "home", model=str(tiny_model))) as opened:
        yield opened


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def rows_of(speech: dict[str, list[Path]]) -> list[ManifestRow]:
    return [ManifestRow(file, speaker) for speaker, files in speech.items() for file in files]


def contents(store: Store) -> dict[tuple[str, str], Float32Array]:
    """(speaker, recording) -> that speaker's voiceprint, for every enrollment; each must be there once."""
    found: dict[tuple[str, str], Float32Array] = {}
    for speaker in store.speakers("default", limit=10_000):
        for enrollment in store.enrollments("default", speaker.id):
            source = (speaker.id, enrollment.source_sha256)
            assert source not in found, f"{source} is enrolled twice"
            found[source] = store.voiceprint("default", speaker.id)[0]
    return found


# --- what becomes of each recording ----------------------------------------------------------------------


def test_good_and_broken_recordings(speech: dict[str, list[Path]], vault: Vault, tmp_path: Path) -> None:
    samples = decode(speech[next(iter(speech))][0]).samples
    folder = tmp_path / "corpus" / "ada"
    folder.mkdir(parents=True)
    for name, subtype in (("a.wav", "PCM_24"), ("b.flac", "PCM_16"), ("c.ogg", "VORBIS"), ("d.mp3", None)):
        soundfile.write(folder / name, samples, 16_000, subtype=subtype)
    soundfile.write(folder / "e.wav", np.stack([samples, samples], axis=1), 48_000 // 3)
    whole = (folder / "a.wav").read_bytes()
    expected = dict.fromkeys(["a.wav", "b.flac", "c.ogg", "d.mp3", "e.wav"], "enrolled")

    def broken(name: str, code: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        expected[name] = code

    broken("cut.wav", "AUDIO_CORRUPT", whole[: len(whole) // 2])
    broken("empty.wav", "AUDIO_EMPTY", b"")
    broken("text.mp3", "AUDIO_UNSUPPORTED", b"#EXTM3U\n/etc/passwd\n" * 20)
    soundfile.write(folder / "silent.wav", np.zeros(48_000), 16_000)
    soundfile.write(folder / "nan.wav", np.full(48_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", samples[:8000], 16_000)
    expected |= {
        "silent.wav": "AUDIO_SILENT",
        "nan.wav": "AUDIO_INVALID_SAMPLES",
        "short.wav": "NOT_ENOUGH_SPEECH",
        "gone.wav": "AUDIO_NOT_FOUND",
        "folder.wav": "AUDIO_NOT_FOUND",
    }
    (folder / "folder.wav").mkdir()
    rows = [ManifestRow(folder / name, "ada") for name in expected]
    seen: list[RowOutcome] = []
    summary = vault.enroll_many(rows, workers=1, progress=seen.append, results=tmp_path / "results.tsv")
    found = {Path(o.path).name: o.code or o.status for o in seen}
    assert found == expected
    for outcome in seen:
        assert (outcome.enrollment_id is not None) == (outcome.status == "enrolled")
        assert outcome.status == "enrolled" or outcome.message
    short = next(o for o in seen if o.code == "NOT_ENOUGH_SPEECH")
    assert short.speech_seconds is not None and short.speech_seconds <= 0.5
    counts = (summary.recordings, summary.enrolled, summary.skipped, summary.rejected, summary.speakers)
    assert counts == (len(rows), 5, 0, len(rows) - 5, 1)
    assert summary.codes == Counter(code for code in expected.values() if code != "enrolled")
    assert summary.audio_seconds == pytest.approx(5 * len(samples) / 16_000, rel=0.02)
    assert summary.seconds > 0
    assert vault.speaker("ada").enrollments == 5
    with (tmp_path / "results.tsv").open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert {Path(line["path"]).name: line["code"] or line["status"] for line in table} == expected
    assert {line["enrollment_id"] for line in table if line["status"] == "enrolled"} == {
        enrollment.id for enrollment in vault.enrollments("ada")
    }


def test_the_embedding_is_the_one_of_embed(speech: dict[str, list[Path]], vault: Vault) -> None:
    rows = [
        ManifestRow(file, f"{speaker}-{file.stem}") for speaker, files in speech.items() for file in files
    ]
    vault.enroll_many(rows, workers=1, batch=5)
    identity = vault.embed(rows[0].path).source_sha256
    for row in rows:
        found = vault.identify(row.path, k=1, threshold=0.99)
        assert found.speaker_id == row.speaker
        assert found.candidates[0].score > 0.99999
    enrollment = vault.enrollments(rows[0].speaker)[0]
    assert enrollment.source_sha256 == identity
    assert enrollment.source_name == rows[0].path.name


def test_what_a_row_says_of_its_speaker(speech: dict[str, list[Path]], vault: Vault) -> None:
    (first, second, *_), *_ = speech.values()
    odd = first.parent / "nobody"
    rows = [
        ManifestRow(odd, "ada", "Ada", ("vip",), {"room": 7}),
        ManifestRow(first, "ada", "Somebody else", ("other",), {"room": 8}),
        ManifestRow(second, "x" * 300),  # no database keeps such an id, and its batch must not go down
        ManifestRow(second, "bob", attributes={"value": float("inf")}),
        ManifestRow(second, "cy"),
    ]
    seen: list[RowOutcome] = []
    vault.enroll_many(rows, workers=1, progress=seen.append)
    codes = {(o.speaker[:3], Path(o.path).name): o.code for o in seen}
    assert codes == {
        ("ada", "nobody"): "AUDIO_NOT_FOUND",
        ("ada", first.name): None,
        ("xxx", second.name): "INVALID_REQUEST",
        ("bob", second.name): "INVALID_REQUEST",
        ("cy", second.name): None,
    }
    ada = vault.speaker("ada")
    assert (ada.name, ada.tags, ada.attributes) == ("Ada", ("vip",), {"room": 7})
    assert [speaker.id for speaker in vault.speakers()] == ["ada", "cy"]


def test_names_that_are_no_text(speech: dict[str, list[Path]], vault: Vault, tmp_path: Path) -> None:
    data = next(iter(speech.values()))[0].read_bytes()
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/tab\there\xff.wav"))
    odd.write_bytes(data)
    for results in (tmp_path / "r.jsonl", tmp_path / "r.tsv"):
        summary = vault.enroll_many([ManifestRow(odd, results.suffix[1:])], workers=1, results=results)
        assert (summary.enrolled, summary.rejected) == (1, 0)
    assert vault.enrollments("tsv")[0].source_name == "tab?here?.wav"
    assert json.loads((tmp_path / "r.jsonl").read_text())["path"] == str(odd)
    with (tmp_path / "r.tsv").open(newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file, delimiter="\t")
    assert line["path"] == str(odd).replace("\udcff", "\\udcff")
    speakers = ["\ud800", "nul\0", "", "\t"]
    seen: list[RowOutcome] = []
    vault.enroll_many(
        [ManifestRow(odd, speaker) for speaker in speakers],
        workers=1,
        results=tmp_path / "r.tsv",
        progress=seen.append,
    )
    assert [(o.status, o.code) for o in seen] == [("rejected", "INVALID_REQUEST")] * 4


def test_wrong_arguments_and_nothing_to_do(vault: Vault, tmp_path: Path) -> None:
    for wrong in ({"workers": 0}, {"batch": 0}, {"results": tmp_path / "results.xlsx"}):
        with pytest.raises(RequestError):
            vault.enroll_many([], **wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="cannot be written"):
        vault.enroll_many([], results=tmp_path / "no" / "folder.tsv")
    summary = vault.enroll_many([], results=tmp_path / "results.jsonl")
    assert (summary.recordings, summary.speakers, summary.codes) == (0, 0, {})
    assert (tmp_path / "results.jsonl").read_text() == ""


# --- duplicates ------------------------------------------------------------------------------------------


def test_a_second_run_decodes_nothing(
    speech: dict[str, list[Path]],
    vault: Vault,
    hooked: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rows = rows_of(speech)
    first = vault.enroll_many(rows, workers=2)
    assert (first.enrolled, first.skipped) == (len(rows), 0)
    before = contents(vault._store)
    generation = vault.collection().generation
    monkeypatch.setenv("DECODE_NOTHING", "1")
    copy = tmp_path / "under another name.flac"
    copy.write_bytes(rows[0].path.read_bytes())
    again = vault.enroll_many([*rows, ManifestRow(copy, rows[0].speaker)], workers=1)
    assert (again.enrolled, again.skipped, again.rejected) == (0, len(rows) + 1, 0)
    assert again.codes == {"DUPLICATE_RECORDING": len(rows) + 1}
    assert vault.collection().generation == generation
    assert contents(vault._store).keys() == before.keys()


def test_duplicate_policies(speech: dict[str, list[Path]], vault: Vault) -> None:
    (file, *_), (other, *_), *_ = speech.values()
    twice = [ManifestRow(file, "ada"), ManifestRow(file, "ada"), ManifestRow(other, "bob")]
    first = vault.enroll_many(twice, workers=1)
    assert (first.enrolled, first.skipped) == (2, 1)
    (before,) = vault.enrollments("ada")

    changed = [ManifestRow(row.path, row.speaker, "New name", ("new",)) for row in twice]
    kept = vault.enroll_many(changed, workers=1, duplicates=DuplicatePolicy.SKIP)
    assert (kept.enrolled, kept.skipped) == (0, 3)
    assert vault.speaker("ada").name is None
    assert vault.enrollments("ada") == [before]

    seen: list[RowOutcome] = []
    replaced = vault.enroll_many(
        changed, workers=1, batch=1, duplicates=DuplicatePolicy.REPLACE, progress=seen.append
    )
    assert (replaced.enrolled, replaced.skipped) == (2, 1)
    (after,) = vault.enrollments("ada")
    assert after.id != before.id
    assert after.id in {o.enrollment_id for o in seen}
    assert (vault.speaker("ada").name, vault.speaker("ada").tags) == ("New name", ("new",))

    added = vault.enroll_many(twice, workers=1, duplicates=DuplicatePolicy.ADD)
    assert (added.enrolled, added.skipped) == (3, 0)
    assert vault.speaker("ada").enrollments == 3
    assert vault.speaker("bob").enrollments == 2


# --- recordings that end their decoder -------------------------------------------------------------------


def test_decoders_that_crash_or_hang(
    speech: dict[str, list[Path]], vault: Vault, hooked: None, tmp_path: Path
) -> None:
    files = [file for some in speech.values() for file in some]
    names = ["segfault", "a", "b", "exit", "c", "d", "hang", "e", "once", "f", "segfault2"]
    rows = []
    for name, file in zip(names, files, strict=False):
        path = tmp_path / f"{name}{file.suffix}"
        path.write_bytes(file.read_bytes())
        rows.append(ManifestRow(path, name))
    seen: list[RowOutcome] = []
    summary = enroll_many(
        rows,
        vault._store,
        vault.pipeline,
        collection="default",
        workers=2,
        timeout=6.0,
        progress=seen.append,
    )
    assert {o.speaker: o.code for o in seen} == {
        name: "AUDIO_CORRUPT" if name in ("segfault", "segfault2", "exit", "hang") else None for name in names
    }
    assert (summary.enrolled, summary.rejected) == (7, 4)
    messages = {o.speaker: o.message or "" for o in seen}
    assert "Segmentation fault" in messages["segfault"]
    assert "exit code 3" in messages["exit"]
    assert "6 s" in messages["hang"]


def test_decoders_that_do_not_start(
    speech: dict[str, list[Path]], vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho no such thing as a library >&2\nexit 9\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(false))
    with pytest.raises(VoicevaultError, match=r"does not start.*exit code 9.*no such thing"):
        vault.enroll_many(rows_of(speech), workers=2)
    assert vault.speakers() == []


def test_the_stages_hear_what_an_enrollment_hears(speech: dict[str, list[Path]], tmp_path: Path) -> None:
    """All of the speech, pauses around it too, whether or not a process lies between the stages."""
    limits, detector = AudioLimits(), SpeechDetector()
    rows = [ManifestRow(file, speaker) for speaker, files in speech.items() for file in files[:2]]
    first, second = (decode(row.path).samples for row in rows[:2])
    soundfile.write(
        tmp_path / "paused.wav", np.concatenate([first, np.zeros(3 * SAMPLE_RATE), second]), SAMPLE_RATE
    )
    rows.append(ManifestRow(tmp_path / "paused.wav", rows[0].speaker))
    around = []
    for row, one in zip(rows, prepare_batch(rows, detector, limits, 0.1), strict=True):
        whole = prepare(row.path, detector, limits)
        assert isinstance(one, Prepared)
        np.testing.assert_array_equal(one.recording.speech, whole.speech)
        around.append(len(whole.speech) / SAMPLE_RATE - whole.quality.speech_seconds)
    assert max(around) > 2 * CONTEXT  # several stretches of speech


def test_an_embedding_that_is_no_number(speech: dict[str, list[Path]]) -> None:
    class Encoder:
        name, model_id, dim = "mean", "m", 4

        def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
            rows = np.ones((len(waveforms), 4), dtype=np.float32) / 2
            rows[[len(w) == 40_000 for w in waveforms]] = np.nan
            return rows

        @contextmanager
        def one_thread_per_call(self) -> Iterator[None]:
            yield

    items = [prepared(40_000), prepared(50_000), prepared(60_000)]
    bad, *good = embed_batch(items, EmbeddingPipeline(Encoder()), 2.0)
    assert isinstance(bad, RowOutcome) and (bad.status, bad.code) == ("rejected", "INTERNAL")
    assert all(not isinstance(item, RowOutcome) for item in good)


# --- interrupted runs ------------------------------------------------------------------------------------

IMPORT = """
import sys
import torch
from voicevault import Settings, Vault
url, home, model, corpus = sys.argv[1:]
with Vault.open(Settings(home=home, database_url=url, model=model)) as vault:
    try:
        vault.enroll_many(corpus, batch=2, results=vault.settings.home / "results.jsonl",
                          progress=lambda outcome: print(outcome.status, outcome.enrollment_id, flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def corpus(speech: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 recordings: each twice, cut differently, so that they are recordings of their own."""
    folder = tmp_path_factory.mktemp("corpus")
    for speaker, files in speech.items():
        (folder / speaker).mkdir()
        for file in files:
            for cut in (0, 160):
                target = folder / speaker / f"{file.stem}-{cut}.wav"
                soundfile.write(target, decode(file).samples[cut:], 16_000)
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    corpus: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Float32Array]:
    """What an import that nothing ends leaves behind."""
    home = tmp_path_factory.mktemp("undisturbed")
    with Vault.open(Settings(home=home, model=str(tiny_model))) as vault:
        summary = vault.enroll_many(corpus)
        assert (summary.enrolled, summary.rejected) == (24, 0)
        return contents(vault._store)


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / uuid4().hex}.db"
    create: Callable[[], str] = request.getfixturevalue("new_postgres_database")
    return create


@pytest.mark.parametrize(
    ("make_url", "how"),
    [("sqlite", signal.SIGKILL), ("postgresql", signal.SIGKILL), ("sqlite", signal.SIGINT)],
    indirect=["make_url"],
)
def test_ended_in_the_middle_and_run_again(
    how: signal.Signals,
    corpus: Path,
    undisturbed: dict[tuple[str, str], Float32Array],
    make_url: Callable[[], str],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    url, mark = make_url(), uuid4().hex
    script = tmp_path / "import.py"  # not guarded by __name__, and it loads torch: decoders must not care
    script.write_text(IMPORT)
    program = subprocess.Popen(
        [sys.executable, str(script), url, str(tmp_path / "home"), str(tiny_model), str(corpus)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "VOICEVAULT_TEST_MARK": mark},
        start_new_session=True,
    )
    assert program.stdout is not None
    told = [program.stdout.readline().split() for _ in range(5)]
    os.killpg(program.pid, how)  # as a terminal does
    rest, complaints = program.communicate(timeout=120)
    told += [line.split() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    assert program.returncode == (130 if how is signal.SIGINT else -how), complaints
    assert "Traceback" not in complaints

    settings = Settings(home=tmp_path / "home", database_url=url, model=str(tiny_model))
    with Vault.open(settings) as vault:
        halfway = contents(vault._store)
        kept = {e.id for speaker in vault.speakers() for e in vault.enrollments(speaker.id)}
        print(f"{len(halfway)} of {len(undisturbed)} were enrolled when {how.name} came")
        assert 0 < len(halfway) < len(undisturbed)
        assert halfway.keys() <= undisturbed.keys()
        assert {id for status, id in told if status == "enrolled"} <= kept
        again = vault.enroll_many(corpus)
        assert (again.skipped, again.rejected) == (len(halfway), 0)
        found = contents(vault._store)
        assert found.keys() == undisturbed.keys()
        for source, voiceprint in undisturbed.items():
            np.testing.assert_allclose(found[source], voiceprint, atol=2e-5)
        assert {e.id for speaker in vault.speakers() for e in vault.enrollments(speaker.id)} >= kept
        probe = next(iter(corpus.glob("*/*.wav")))
        assert vault.identify(probe, k=1, threshold=0.0).gallery == 4
    if Path("/proc/self/environ").exists():
        wait_until(lambda: not processes_with(mark), "decoding processes outlive the program")


def processes_with(mark: str) -> list[str]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:
            continue
    return found


def wait_until(true: Callable[[], bool], otherwise: str) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail(otherwise)


def test_an_error_in_the_middle_ends_everything(
    speech: dict[str, list[Path]],
    vault: Vault,
    hooked: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    mark = uuid4().hex
    monkeypatch.setenv("VOICEVAULT_TEST_MARK", mark)
    seen: list[RowOutcome] = []

    def enough(outcome: RowOutcome) -> None:
        seen.append(outcome)
        if len(seen) == 3:
            raise LookupError("enough")

    hanging = ManifestRow(tmp_path / "hang.wav", "x")
    begun = time.monotonic()
    with pytest.raises(LookupError, match="enough"):
        vault.enroll_many([hanging, *rows_of(speech)], workers=2, batch=1, progress=enough)
    assert time.monotonic() - begun < 200, "the run waited for the recording that hangs, 240 s"
    monkeypatch.delenv("VOICEVAULT_TEST_MARK")
    assert len(vault.speakers()) >= 1
    assert processes_with(mark) == []

    def rows() -> Iterator[ManifestRow]:
        yield rows_of(speech)[-1]
        raise LookupError("the manifest breaks off")

    with pytest.raises(LookupError, match="breaks off"):
        vault.enroll_many(rows(), workers=1)


# --- memory and cores ------------------------------------------------------------------------------------


def prepared(samples: int) -> Prepared:
    seconds = samples / 16_000
    recording = PreparedRecording(
        np.full(samples, 0.1, dtype=np.float32),
        (Segment(0.0, seconds),),
        Quality(seconds, seconds, -20.0, 0.0, None),
        uuid4().hex,
        uuid4().hex,
    )
    return Prepared(ManifestRow(Path("x.wav"), "x"), recording)


class Busy:
    """How many threads compute at once, and of which kinds."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.seen: set[tuple[int, int]] = set()
        self.entered = 0
        self._lock = threading.Lock()

    @contextmanager
    def at(self, kind: str) -> Iterator[None]:
        with self._lock:
            self.now[kind] += 1
            self.seen.add((self.now["decode"], self.now["embed"]))
        time.sleep(0.01)
        yield
        with self._lock:
            self.now[kind] -= 1


def test_all_cores_work_and_no_more_threads_than_cores(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cores, three decoders: whichever stage lags gets the cores that the other has no use for."""
    busy, dim = Busy(), vault.dim

    class SlowDecoder(Decoder):
        def begin(self, row: ManifestRow) -> None:
            self._begun.append(row)

        def finish(self, slow: Callable[[], None]) -> Prepared | RowOutcome:
            with busy.at("decode"):
                return Prepared(self._begun.popleft(), prepared(16_000).recording)

    class SlowEncoder:
        name, model_id, dim = vault.encoder_name, vault.model_id, vault.dim

        def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
            assert busy.entered == 1
            for _ in waveforms:
                with busy.at("embed"):
                    pass
            return np.eye(1, dim, dtype=np.float32).repeat(len(waveforms), axis=0)

        @contextmanager
        def one_thread_per_call(self) -> Iterator[None]:
            busy.entered += 1
            yield
            busy.entered -= 1

    monkeypatch.setattr("voicevault.bulk.run.Decoder", SlowDecoder)
    monkeypatch.setattr("voicevault.bulk.run.available_cores", lambda: 3)
    rows = [ManifestRow(Path(f"{n}.wav"), str(n)) for n in range(60)]
    summary = enroll_many(
        rows, vault._store, EmbeddingPipeline(SlowEncoder()), collection="default", batch=2, min_speech=0.5
    )
    assert summary.enrolled == 60
    assert busy.entered == 0
    together = {decode + embed for decode, embed in busy.seen}
    assert max(together) == 3
    assert {(3, 0), (0, 3)} & busy.seen
    assert {(2, 1), (1, 2)} & busy.seen, "decoding and embedding never overlap"


def test_permits_go_first_come_first_served() -> None:
    permits = Permits(1)
    order: list[str] = []
    with Permit(permits) as mine:
        mine.hold()  # once is enough
        assert not permits.wanted

        def wait(name: str) -> None:
            with Permit(permits, asks=name == "b"):
                order.append(name)

        threads = []
        for place, name in enumerate("abc", start=1):
            threads.append(threading.Thread(target=wait, args=(name,), daemon=True))
            threads[-1].start()
            while len(permits._waiting) < place:
                time.sleep(0.01)
            assert permits.wanted == (place > 1)  # the first of them does not ask
        assert permits.wanted
        mine.let_go()
        mine.hold()  # behind the others
        assert order == ["a", "b", "c"] and not permits.wanted
    for thread in threads:
        thread.join(5)
    with Permit(permits):  # none was lost, and none is left over
        permits_left = permits._free
    assert permits_left == 0 and permits._free == 1


def test_batches_of_like_length() -> None:
    pool = Pool(batch=4, takers=2, putters=1)
    lengths = np.random.default_rng(3).permutation(np.arange(20) * 800 + 16_000).tolist()
    for length in lengths:
        assert pool.room(wait=False)
        pool.put(prepared(length))
    pool.finished()
    found = []
    while (batch := pool.take()) is not None:
        found.append([len(item.recording.samples) for item in batch])
        pool.done(batch)
    assert [length for batch in found for length in batch] == sorted(lengths, reverse=True)
    assert max(map(len, found)) <= 4


def test_the_last_recordings_are_shared_out() -> None:
    pool = Pool(batch=32, takers=2, putters=1)
    for _ in range(5):
        pool.put(prepared(16_000))
    pool.finished()
    assert [len(pool.take() or []), len(pool.take() or [])] == [3, 2]
    assert pool.take() is None


def test_one_thread_embeds_a_window_before_another_joins_it() -> None:
    """Batches of one, windows of four, room for eight."""
    pool = Pool(batch=1, takers=2, putters=1)
    taken: deque[list[Prepared]] = deque()

    def take() -> None:
        while (batch := pool.take()) is not None:
            taken.append(batch)

    def put(count: int) -> None:
        for _ in range(count):
            assert pool.room(wait=False)
            pool.put(prepared(16_000))

    def expect(count: int) -> None:
        wait_until(lambda: len(taken) >= count, "nobody takes what is there")
        time.sleep(0.1)
        assert len(taken) == count

    threads = [threading.Thread(target=take, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    put(3)
    expect(0)  # a window fills
    put(1)
    expect(1)
    mine = pool.exchange(taken[0])
    assert mine is not None and len(taken) == 1  # the thread that embeds goes on with what is left
    put(3)
    expect(1)  # two are left, and a window fills
    put(1)
    expect(2)  # six are left: more than a window
    put(1)
    expect(7)  # and now there is no room, so that nothing else can be done
    pool.finished()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert sum(map(len, taken)) + len(mine) == 9


@pytest.mark.parametrize(("seconds", "room"), [(1, 8), (40, 2), (500, 1)])
def test_a_full_pool_makes_decoders_wait(seconds: int, room: int) -> None:
    """Batches of one: room for 8 recordings or 80 seconds of them."""
    pool = Pool(batch=1, takers=1, putters=1)
    entered = []

    def put() -> None:
        while pool.room(wait=True):
            pool.put(prepared(seconds * 16_000))
            entered.append(1)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    wait_until(lambda: len(entered) == room, "the pool takes less than it has room for")
    time.sleep(0.1)
    assert len(entered) == room and not pool.room(wait=False)
    batch = pool.take()
    assert batch is not None
    time.sleep(0.1)
    assert len(entered) == room  # a recording counts until it is embedded
    pool.done(batch)
    wait_until(lambda: len(entered) == room + 1, "nothing follows what was embedded")
    pool.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert pool.take() is None
