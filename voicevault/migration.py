"""A collection onto another model: its speakers are embedded again from the speech that it kept, beside the collection as it is,
which is exchanged for the new one in one transaction and stays, under another name, to go back to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from voicevault.catalogue import Model
from voicevault.errors import (
    AudioNotKeptError,
    CollectionExistsError,
    DatabaseBusyError,
    RequestError,
    SpeakerNotFoundError,
)
from voicevault.scoring.metrics import equal_error_rate
from voicevault.store import KeptEnrollment, NewEnrollment, Store
from voicevault.types import DuplicatePolicy, Embedding, Float32Array, Speaker

BATCH = 32
"""Recordings that are embedded and committed together."""
ROUNDS = 20
"""Times that the copy is made level with a collection that others write to meanwhile."""
COMPARED = 2000
"""The most recordings whose pairs make the error rates."""

Mark = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Migration:
    """What became of a change of the model, or would.

    Attributes:
        target: The collection on the new model, as long as it is not exchanged.
        recordings: Enrollments that are there on the new model.
        enroll_again: Speakers none of whose speech was kept: the new model does not know them.
        partly: Speakers who lose those of their enrollments whose speech was not kept.
        eer_before, eer_after: EER over pairs of single recordings, the same ones for both models, as fractions; None
            where there are too few.
        genuine, impostor: How many pairs of one speaker, and of two.
        backup: What the collection on the former model is called now; None where nothing was exchanged.
    """

    collection: str
    target: str
    from_model: str
    to_model: str
    recordings: int
    enroll_again: tuple[str, ...]
    partly: tuple[str, ...]
    eer_before: float | None
    eer_after: float | None
    genuine: int
    impostor: int
    backup: str | None = None


def migrate(
    store: Store,
    collection: str,
    model: Model,
    *,
    switch: bool = True,
    leave_out: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Migration:
    """See `voicevault.vault.Vault.migrate`."""
    before = store.collection(collection)
    if before.model_id == model.model_id:
        raise RequestError(f"The collection {collection!r} is on model {model.model_id} already.")
    target = _target(store, collection, model)
    for _ in range(ROUNDS):
        generation = _make_level(store, collection, target, model, progress)
        found = _measured(store, collection, target, before.model_id, model.model_id)
        if store.position(collection).generation != generation:
            continue  # nobody who was forgotten meanwhile may stay in the copy
        if not switch:
            return found
        if (found.enroll_again or found.partly) and not leave_out:
            raise AudioNotKeptError(
                f"The speech of {len(found.enroll_again)} speakers was not kept, and that of {len(found.partly)} others in part."
                " They must enroll again with the new model; or leave out what was not kept.",
                enroll_again=list(found.enroll_again),
                partly=list(found.partly),
            )
        backup = f"{collection}@{before.model_id[:8]}"
        with suppress(DatabaseBusyError):  # somebody was enrolled or forgotten meanwhile
            store.exchange(collection, target, backup, generation)
            return replace(found, backup=backup)
    raise DatabaseBusyError(
        "The collection is written to again and again; try when it is quieter.", collection=collection
    )


def _target(store: Store, collection: str, model: Model) -> str:
    """The collection on the new model: the one that was begun, or is there from before, or a new one."""
    for twin in store.twins_of(collection):
        if store.collection(twin).model_id == model.model_id:
            return twin
    there = store.collection(collection)
    name = f"{collection}@{model.model_id[:8]}"
    with suppress(CollectionExistsError):
        store.create_collection(
            name, model.model_id, model.dim, keeps_audio=there.keeps_audio, twin=there.uuid
        )
        return name
    raise CollectionExistsError(
        f"The collection {name!r}, as which the new one would be made, exists already. Rename or delete it.",
        collection=name,
    )


def _make_level(
    store: Store, collection: str, target: str, model: Model, progress: Callable[[int, int], None] | None
) -> int:
    """Makes `target` hold the speakers of `collection` and what of their speech was kept; returns the generation of that."""
    generation, kept = store.kept(collection)
    _, there = store.kept(target)
    _level_speakers(store, collection, target)
    surplus = Counter(map(_mark, there)) - Counter(map(_mark, kept))
    for one in there:
        # What has no speech was left out of the change of the model: that it is missing now does not mean forgotten.
        if one.audio and surplus[_mark(one)] > 0:
            surplus[_mark(one)] -= 1
            with suppress(SpeakerNotFoundError):  # gone with the speaker
                store.forget_enrollment(target, one.enrollment.speaker_id, one.enrollment.id)
    known, missing = Counter(map(_mark, there)), []
    for one in kept:
        if known[_mark(one)] > 0:
            known[_mark(one)] -= 1
        elif one.audio:
            missing.append(one)
    for done, batch in enumerate(_batches(missing, BATCH)):
        _embed(store, target, model, batch)
        if progress is not None:
            progress(min((done + 1) * BATCH, len(missing)), len(missing))
    return generation


def _level_speakers(store: Store, collection: str, target: str) -> None:
    wanted = {speaker.id: speaker for speaker in _speakers(store, collection)}
    present = {speaker.id: speaker for speaker in _speakers(store, target)}
    for id in present.keys() - wanted.keys():
        store.forget_speaker(target, id)
    for id, speaker in wanted.items():
        there = present.get(id)
        if there is None:
            store.create_speaker(target, id, speaker.name, speaker.attributes, speaker.tags)
        elif (there.name, there.attributes, there.tags) != (speaker.name, speaker.attributes, speaker.tags):
            store.update_speaker(
                target, id, name=speaker.name, attributes=speaker.attributes, tags=speaker.tags
            )


def _embed(store: Store, target: str, model: Model, batch: Sequence[KeptEnrollment]) -> None:
    read = [(one.enrollment, store.audio_of(one.enrollment.id)) for one in batch]
    audio = [(enrollment, flac) for enrollment, flac in read if flac is not None]  # else forgotten meanwhile
    if not audio:
        return
    keeps = store.keeps_audio(target)
    vectors = model.pipeline.embed_speech([flac for _, flac in audio])
    store.add_enrollments(
        target,
        [
            NewEnrollment(
                enrollment.speaker_id,
                Embedding(
                    vector,
                    model.model_id,
                    enrollment.quality,
                    enrollment.source_sha256,
                    enrollment.audio_sha256,
                    audio=flac if keeps else None,
                ),
                enrollment.source_name,
            )
            for (enrollment, flac), vector in zip(audio, vectors, strict=True)
        ],
        policy=DuplicatePolicy.ADD,
    )


def _measured(store: Store, collection: str, target: str, from_model: str, to_model: str) -> Migration:
    kept, there = store.kept(collection)[1], store.kept(target)[1]
    all_of, lost = Counter(one.enrollment.speaker_id for one in kept), Counter[str]()
    present = Counter(map(_mark, there))
    for one in kept:
        if present[_mark(one)] > 0:
            present[_mark(one)] -= 1
        else:
            lost[one.enrollment.speaker_id] += 1
    after = {_mark(one): one.vector for one in there}
    both = {_mark(one): one.vector for one in kept if _mark(one) in after}
    marks = list(both)
    if len(marks) > COMPARED:
        chosen = np.random.default_rng(0).choice(len(marks), COMPARED, replace=False)
        marks = [marks[i] for i in sorted(chosen)]
    first, second = np.triu_indices(len(marks), 1)
    speakers = np.array([mark[0] for mark in marks])
    same = speakers[first] == speakers[second] if len(marks) else np.zeros(0, np.bool_)
    measurable = bool(same.any()) and not bool(same.all())

    def eer(vectors: dict[Mark, Float32Array]) -> float | None:
        if not measurable:
            return None
        rows = np.stack([vectors[mark] for mark in marks]).astype(np.float64)
        return equal_error_rate((rows @ rows.T)[first, second], same)[0]

    return Migration(
        collection=collection,
        target=target,
        from_model=from_model,
        to_model=to_model,
        recordings=len(there),
        enroll_again=tuple(sorted(id for id, count in lost.items() if count == all_of[id])),
        partly=tuple(sorted(id for id, count in lost.items() if count < all_of[id])),
        eer_before=eer(both),
        eer_after=eer(after),
        genuine=int(same.sum()),
        impostor=int((~same).sum()),
    )


def _mark(one: KeptEnrollment) -> Mark:
    """What says of two enrollments that they are of one recording: speaker, file and samples."""
    return one.enrollment.speaker_id, one.enrollment.source_sha256, one.enrollment.audio_sha256


def _speakers(store: Store, collection: str) -> Iterator[Speaker]:
    after = None
    while page := store.speakers(collection, after=after, limit=1000):
        yield from page
        after = page[-1].id


def _batches(rows: Iterable[KeptEnrollment], size: int) -> Iterator[list[KeptEnrollment]]:
    rest = iter(rows)
    while batch := list(islice(rest, size)):
        yield batch
