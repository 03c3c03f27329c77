"""Manifests and corpus folders: every form, and the line where one is wrong."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voicevault.errors import ManifestError
from voicevault.manifest import loose_recordings, read_corpus
from voicevault.types import ManifestRow


def write(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_folder(tmp_path: Path) -> None:
    for name in (
        "bob/b.wav",
        "ada/2.flac",
        "ada/1.wav",
        "ada/day two/3.opus",
        "ada/notes.txt",
        "ada/.hidden.wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.wav").touch()
    (tmp_path / "stray.wav").touch()
    assert read_corpus(tmp_path) == [
        ManifestRow(tmp_path / "ada/1.wav", "ada"),
        ManifestRow(tmp_path / "ada/2.flac", "ada"),
        ManifestRow(tmp_path / "ada/day two/3.opus", "ada"),
        ManifestRow(tmp_path / "bob/b.wav", "bob"),
    ]
    assert loose_recordings(tmp_path) == [tmp_path / "stray.wav"]
    with pytest.raises(ManifestError, match="speaker/recording"):
        read_corpus(tmp_path / ".git")


def test_table_with_a_header(tmp_path: Path) -> None:
    expected = [
        ManifestRow(tmp_path / "a b.wav", "ada", "Ada, L.", ("en", "vip"), {"room": "7"}),
        ManifestRow(Path("/abs/c.wav"), "bob"),
    ]
    tsv = "speaker\tPath\tname\ttags\troom\nada\ta b.wav\tAda, L.\tvip;en;vip\t7\n\nbob\t/abs/c.wav\t\t\t\n"
    csv = '\ufeffspeaker,path,name,tags,room\r\nada,a b.wav,"Ada, L.","vip, en",7\r\nbob,/abs/c.wav,,,\r\n'
    assert read_corpus(write(tmp_path, "m.tsv", tsv)) == expected
    assert read_corpus(write(tmp_path, "m.csv", csv)) == expected
    assert read_corpus(write(tmp_path, "m.txt", tsv)) == expected
    elsewhere = read_corpus(tmp_path / "m.tsv", tmp_path / "audio")
    assert [row.path for row in elsewhere] == [tmp_path / "audio" / "a b.wav", Path("/abs/c.wav")]


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    for name, comma in (("m.tsv", "\t"), ("m.csv", ",")):
        for end in ("\n", "\r\n"):
            for odd in ("\u2028", "\u2029", "\x85", "\f", "\v", "\x1e"):
                lines = [("path", "speaker", "room"), ("a.wav", "ada", f"the{odd}hall"), ("b.wav", "bob", "")]
                text = end.join(comma.join(line) for line in lines) + end
                assert read_corpus(write(tmp_path, name, text)) == [
                    ManifestRow(tmp_path / "a.wav", "ada", attributes={"room": f"the{odd}hall"}),
                    ManifestRow(tmp_path / "b.wav", "bob"),
                ]


def test_quotes_in_a_tab_separated_table_mean_nothing(tmp_path: Path) -> None:
    (row,) = read_corpus(write(tmp_path, "m.tsv", 'path\tspeaker\tname\nx.wav\tada\t"Ada\n'))
    assert row.name == '"Ada'


def test_two_columns_without_a_header(tmp_path: Path) -> None:
    rows = read_corpus(write(tmp_path, "list.tsv", "one.wav\tada\ntwo.wav\tbob\n"))
    assert rows == [ManifestRow(tmp_path / "one.wav", "ada"), ManifestRow(tmp_path / "two.wav", "bob")]


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {
            "path": "a.wav",
            "speaker": "ada",
            "name": "Ada",
            "tags": ["vip"],
            "room": 7,
            "attributes": {"floor": 2},
        },
        {"path": "b.wav", "speaker": 12, "tags": None, "attributes": {}},
        {"path": "c\u2028.wav", "speaker": "c\u00e9sar"},
    ]
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    assert read_corpus(write(tmp_path, "m.jsonl", text)) == [
        ManifestRow(tmp_path / "a.wav", "ada", "Ada", ("vip",), {"room": 7, "floor": 2}),
        ManifestRow(tmp_path / "b.wav", "12"),
        ManifestRow(tmp_path / "c\u2028.wav", "c\u00e9sar"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("m.tsv", "path\tspeaker\na.wav\tada\nb.wav\n", 3, "1 columns, expected 2"),
        ("m.tsv", "path\tspeaker\n\nb.wav\t \n", 3, "speaker is missing"),
        ("m.csv", "path,speaker\n,ada\n", 2, "path is missing"),
        ("m.csv", "path,label,extra\na.wav,ada,1\n", 1, "a header with path and speaker is missing"),
        ("m.csv", "path,speaker,path\na,b,c\n", 1, "a column stands there twice"),
        ("m.csv", 'path,speaker\n"a.wav,ada\n', 2, ""),
        ("m.jsonl", '{"path": "a.wav", "speaker": "ada"}\n{"path": \n', 2, "not JSON"),
        ("m.jsonl", "\n[1, 2]\n", 2, "not a JSON object"),
        ("m.jsonl", "\n" + "[" * 100_000, 2, "not JSON"),
        ("m.jsonl", '{"path": ["a"], "speaker": "ada"}', 1, "path is not a text"),
        ("m.jsonl", '{"path": "a", "speaker": true}', 1, "speaker is not a text"),
        ("m.jsonl", '{"path": "a", "speaker": "b", "tags": [1]}', 1, "tags is not a list of texts"),
    ],
)
def test_the_line_where_it_is_wrong(tmp_path: Path, name: str, text: str, line: int, words: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ManifestError) as caught:
        read_corpus(path)
    assert caught.value.message.startswith(f"{path}, line {line}: ")
    assert words in caught.value.message
    assert caught.value.facts == {"path": str(path), "line": line}


@pytest.mark.parametrize("closed", [".", "ada", "ada/day two"])
def test_a_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    (tmp_path / "ada/day two").mkdir(parents=True)
    (tmp_path / "ada/1.wav").touch()
    locked, denied = tmp_path / closed, os.strerror(errno.EACCES)

    def deny(call: Callable[..., Any]) -> Callable[..., Any]:
        # Root may list every folder, so the system's calls answer as for somebody else.
        def asked(folder: object = ".", *more: object) -> Any:
            if Path(str(folder)) == locked:
                raise PermissionError(errno.EACCES, denied, str(folder))
            return call(folder, *more)

        return asked

    monkeypatch.setattr(os, "listdir", deny(os.listdir))
    monkeypatch.setattr(os, "scandir", deny(os.scandir))
    with pytest.raises(ManifestError) as caught:
        read_corpus(tmp_path)
    assert caught.value.message == f"{locked} cannot be read: {denied}."
    if closed == ".":
        with pytest.raises(ManifestError, match="cannot be read"):
            loose_recordings(tmp_path)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_corpus(write(tmp_path, "m.tsv", b"path\tspeaker\n\xff\xfe\tx\n"))
    with pytest.raises(ManifestError, match=r"cannot be read: No such file"):
        read_corpus(tmp_path / "none.tsv")
    for text in ("", "path\tspeaker\n"):
        with pytest.raises(ManifestError, match="names no recordings"):
            read_corpus(write(tmp_path, "m.tsv", text))
