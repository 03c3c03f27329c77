"""The exception tree: what its docstring draws is what there is, and every leaf can be told from the others."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import pytest

from voicevault import errors
from voicevault.errors import NotEnoughSpeechError, VoicevaultError


def tree(root: type[VoicevaultError]) -> list[type[VoicevaultError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


CLASSES = sorted(
    {cls for cls in tree(VoicevaultError) if cls.__module__ == errors.__name__}, key=lambda c: c.__name__
)


def drawn() -> dict[str, str]:
    """Class -> base, as the docstring of the module draws them."""
    assert errors.__doc__ is not None
    found: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        if depth:
            found[match[2]] = path[depth - 1]
    return found


def test_the_drawn_tree_is_the_tree() -> None:
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES if cls is not VoicevaultError}
    assert len(real) > 30
    assert drawn() == real
    assert all(len(cls.__bases__) == 1 for cls in CLASSES)


def test_there_are_no_others() -> None:
    """Not even where every part is loaded."""
    program = (
        "import importlib, pkgutil, voicevault\n"
        "from voicevault.errors import VoicevaultError\n"
        "for part in pkgutil.walk_packages(voicevault.__path__, 'voicevault.'):\n"
        "    if not part.name.endswith('__main__'): importlib.import_module(part.name)\n"
        "def tree(c): return [c, *(x for s in c.__subclasses__() for x in tree(s))]\n"
        "print(len(tree(VoicevaultError)))\n"
        "print([c.__qualname__ for c in tree(VoicevaultError) if c.__module__ != 'voicevault.errors'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == [str(len(CLASSES)), "[]"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_has_its_own_code_and_a_status_and_an_exit_code(cls: type[VoicevaultError]) -> None:
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", cls.__dict__["code"])
    assert [other for other in CLASSES if other.code == cls.code] == [cls]
    assert 400 <= cls.status <= 599
    assert 1 <= cls.exit_code <= 125  # a shell gives the rest meanings of its own
    assert cls.__dict__["title"] and not cls.title.endswith(".")


def test_exit_codes_tell_the_branches_apart() -> None:
    branches = {cls.__name__: cls.exit_code for cls in VoicevaultError.__subclasses__()}
    assert len(set(branches.values())) == len(branches)
    assert VoicevaultError.exit_code not in branches.values()
    for cls in CLASSES:
        if cls is not VoicevaultError:
            branch = cls.__mro__[cls.__mro__.index(VoicevaultError) - 1]
            assert cls.exit_code == branch.exit_code


def test_the_facts_cross_process_borders() -> None:
    error = pickle.loads(
        pickle.dumps(NotEnoughSpeechError("Too little.", found=0.4, needed=2.0, missing=1.6))
    )
    assert type(error) is NotEnoughSpeechError
    assert (error.message, str(error)) == ("Too little.", "Too little.")
    assert error.facts == {"found": 0.4, "needed": 2.0, "missing": 1.6}
