"""Speakers and enrollments are forgotten in all collections of the same speakers at once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from voicevault.errors import CollectionNotFoundError, EnrollmentNotFoundError, SpeakerNotFoundError
from voicevault.gallery import Galleries
from voicevault.store import Store


def forget(
    store: Store, galleries: Galleries, collection: str, speaker_id: str, enrollment_id: str | None = None
) -> None:
    """Deletes a speaker, or one enrollment, in `collection` and in what changes of the model left of it.

    Raises:
        SpeakerNotFoundError, EnrollmentNotFoundError: Nowhere was anything of that.
    """

    def gone_from(names: Iterable[str]) -> bool:
        return _forget_in(store, galleries, names, speaker_id, sources)

    sources: set[str] | None = None
    if enrollment_id is not None:
        there = store.enrollments(collection, speaker_id)
        sources = {one.source_sha256 for one in there if one.id == enrollment_id}
    missing: SpeakerNotFoundError | EnrollmentNotFoundError | None = None
    # The others first, so that what fails in the middle can be asked for again; and once more afterwards, because a change
    # of the model may just have been copying, or exchanging the names. Whom only the others still hold, after a first try
    # that was killed, is forgotten there.
    gone = gone_from(store.twins_of(collection))
    try:
        if enrollment_id is None:
            store.forget_speaker(collection, speaker_id)
        else:
            store.forget_enrollment(collection, speaker_id, enrollment_id)
        galleries.forget(collection)
    except (SpeakerNotFoundError, EnrollmentNotFoundError) as error:
        missing = error
        # Of two that exchanged their names, each calls the enrollment by an id of its own.
        gone |= gone_from([collection])
    finally:
        gone |= gone_from(store.twins_of(collection))
    if missing is not None and not gone:
        raise missing


def _forget_in(
    store: Store, galleries: Galleries, collections: Iterable[str], speaker_id: str, sources: set[str] | None
) -> bool:
    """Forgets the speaker, or the enrollments of these source files; returns whether anything of that was there."""
    gone = False
    for name in collections:
        with suppress(SpeakerNotFoundError, EnrollmentNotFoundError, CollectionNotFoundError):
            if sources is None:
                store.forget_speaker(name, speaker_id)
                gone = True
            else:
                for one in store.enrollments(name, speaker_id):
                    if one.source_sha256 in sources:
                        store.forget_enrollment(name, speaker_id, one.id)
                        gone = True
            galleries.forget(name)
    return gone
