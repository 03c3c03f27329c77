"""Parts side by side: never more at a time than there are cores, and no waiting for helpers that do not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue

import pytest

from voicevault.index import Crew
from voicevault.index.crew import _Errand


@pytest.fixture
def crew() -> Iterator[Crew]:
    with closing(Crew(3)) as made:
        yield made


def numbered(count: int, work: Callable[[], object] = lambda: None) -> list[Callable[[], int]]:
    def part(number: int) -> Callable[[], int]:
        def run() -> int:
            work()
            return number

        return run

    return [part(number) for number in range(count)]


def helpers(crew: Crew) -> list[threading.Thread]:
    return [thread for thread in crew._threads if thread.is_alive()]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_answers_come_in_order(crew: Crew, count: int) -> None:
    for _ in range(50):
        assert crew.run(numbered(count)) == list(range(count))


def test_parts_run_side_by_side(crew: Crew) -> None:
    together = threading.Barrier(3)
    assert crew.run(numbered(3, lambda: together.wait(10))) == [0, 1, 2]
    threads = helpers(crew)
    assert len(threads) == 2
    crew.close()
    assert not any(thread.is_alive() for thread in threads)


def test_threads_end_with_a_crew_that_nobody_closed() -> None:
    crew = Crew(3)
    crew.run(numbered(3))
    threads = helpers(crew)
    del crew
    for thread in threads:
        thread.join(10)
    assert len(threads) == 2 and not any(thread.is_alive() for thread in threads)


def test_one_core_needs_no_threads() -> None:
    with closing(Crew()) as crew:
        here = threading.get_ident()
        assert crew.run([threading.get_ident] * 4) == [here] * 4
        assert not helpers(crew)


def test_many_searches_use_no_more_threads_than_cores(crew: Crew) -> None:
    lock, busy, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.001)
        with lock:
            busy -= 1

    answers: list[list[int]] = []
    searches = [
        threading.Thread(target=lambda: answers.extend(crew.run(numbered(4, work)) for _ in range(20)))
        for _ in range(8)
    ]
    for search in searches:
        search.start()
    for search in searches:
        search.join()
    assert answers == [[0, 1, 2, 3]] * 160
    assert most == 3
    together = threading.Barrier(3)  # and all cores are free again
    crew.run(numbered(3, lambda: together.wait(10)))


def test_a_helper_that_does_not_come_is_not_waited_for(crew: Crew) -> None:
    """As on a machine whose other cores are busy."""
    crew.run(numbered(3))
    release, stuck, ended = threading.Event(), threading.Barrier(3), SimpleQueue[BaseException | None]()

    def hold() -> None:
        stuck.wait(10)
        release.wait(10)

    for _ in range(2):
        crew._free.get()
        crew._errands.put(_Errand(hold, ended))
    stuck.wait(10)
    for _ in range(2):
        crew._free.put(None)  # their cores look free
    here = threading.get_ident()
    assert crew.run([threading.get_ident] * 3) == [here] * 3
    for _ in range(2):
        crew._free.get()
    release.set()
    assert [ended.get(timeout=10) for _ in range(2)] == [None, None]
    together = threading.Barrier(3)
    crew.run(numbered(3, lambda: together.wait(10)))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_a_part_raises_is_raised_when_all_are_done(crew: Crew, failing: int) -> None:
    together, done = threading.Barrier(3), []

    def part(number: int) -> Callable[[], None]:
        def run() -> None:
            together.wait(10)
            if number == failing:
                raise ValueError(f"part {number}")
            time.sleep(0.01)
            done.append(number)

        return run

    with pytest.raises(ValueError, match=f"part {failing}"):
        crew.run([part(number) for number in range(3)])
    assert sorted(done) == sorted({0, 1, 2} - {failing})
    again = threading.Barrier(3)
    assert crew.run(numbered(3, lambda: again.wait(10))) == [0, 1, 2]
