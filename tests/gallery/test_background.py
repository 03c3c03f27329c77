"""The threads that no answer waits for."""

from __future__ import annotations

import os
import sys
from concurrent.futures import CancelledError
from threading import get_native_id

import pytest

from voicevault.gallery.background import Background


@pytest.fixture
def background() -> Background:
    return Background()


def test_its_threads_give_way_to_answers(background: Background) -> None:
    if sys.platform != "linux":
        pytest.skip("threads have no priority of their own here")
    found: list[int] = []
    background.now("upkeep", lambda: found.append(os.getpriority(os.PRIO_PROCESS, get_native_id())))
    assert found == [min(19, os.getpriority(os.PRIO_PROCESS, get_native_id()) + 5)]
    background.close()


def test_what_is_waited_for_raises_and_what_is_not_is_logged(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError):
        background.now("upkeep", lambda: print(1 // 0))
    assert not caplog.records
    background.later("upkeep", lambda: print(1 // 0))
    background.now("upkeep", lambda: None)  # one after the other
    assert "upkeep of an index failed" in caplog.text
    background.close()
    background.later("upkeep", lambda: pytest.fail("was done after the end"))
    with pytest.raises(CancelledError):
        background.now("upkeep", lambda: None)
