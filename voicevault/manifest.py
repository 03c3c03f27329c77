"""What to enroll: a folder ``speaker/recording``, or a manifest in TSV, CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from voicevault.errors import ManifestError
from voicevault.types import ManifestRow

_NOT_AUDIO = frozenset(
    [
        ".txt",
        ".tsv",
        ".csv",
        ".json",
        ".jsonl",
        ".md",
        ".html",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".pdf",
        ".lab",
        ".textgrid",
        ".trn",
        ".py",
    ]
)
"""What commonly lies beside recordings. Everything else in a speaker's folder counts as one."""


def read_corpus(source: str | Path, audio_root: str | Path | None = None) -> list[ManifestRow]:
    """The recordings of a corpus, in a stable order.

    Args:
        source: A folder with one folder per speaker, or a file ending in .tsv, .csv or .jsonl. TSV and CSV
            have a header with ``path`` and ``speaker``, or exactly two columns, path and label, without one.
            Further columns: ``name``, ``tags`` (separated by commas or semicolons); the rest are attributes.
        audio_root: What relative paths in a manifest start from; by default the manifest's folder.

    Raises:
        ManifestError: It cannot be read; with the line where there is one.
    """
    path = Path(source)
    if os.path.isdir(path):  # `Path.is_dir` fails below a folder that may not be entered
        return _folder(path)
    root = Path(audio_root) if audio_root is not None else path.parent
    with _reading(path):
        text = path.read_text(encoding="utf-8-sig")
    kind = path.suffix.lower()
    records = _json_lines(path, text) if kind in (".jsonl", ".ndjson") else _table(path, text, kind == ".csv")
    rows = [_row(path, line, record, root) for line, record in records]
    if not rows:
        raise ManifestError(f"{path} names no recordings.", path=str(path))
    return rows


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 text; is it a manifest?", path=str(path)) from error
    except OSError as error:
        path = Path(error.filename or path)
        raise ManifestError(f"{path} cannot be read: {error.strerror}.", path=str(path)) from error


def _folder(root: Path) -> list[ManifestRow]:
    with _reading(root):
        rows = [
            ManifestRow(file, speaker.name)
            for speaker in sorted(root.iterdir())
            if speaker.is_dir() and not speaker.name.startswith(".")
            for file in _files_below(speaker)
            if _may_be_audio(file)
        ]
    if not rows:
        raise ManifestError(
            f"{root} holds no recordings in folders of their speakers (speaker/recording).", path=str(root)
        )
    return rows


def _files_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:  # `Path.rglob` would leave out what it may not list
        raise error

    return sorted(Path(at, name) for at, _, names in os.walk(folder, onerror=refuse) for name in names)


def loose_recordings(source: str | Path) -> list[Path]:
    """Recordings that lie in a folder of speakers without a folder of their own: nobody's, so `read_corpus` leaves them out.

    Raises:
        ManifestError: The folder cannot be listed.
    """
    root = Path(source)
    with _reading(root):
        return [file for file in sorted(root.iterdir()) if _may_be_audio(file)] if root.is_dir() else []


def _may_be_audio(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.suffix.lower() not in _NOT_AUDIO


def _fail(path: Path, line: int, what: str) -> NoReturn:
    raise ManifestError(f"{path}, line {line}: {what}.", path=str(path), line=line)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            _fail(path, line, f"not JSON ({error})")
        if not isinstance(record, dict):
            _fail(path, line, "not a JSON object")
        yield line, record


def _table(path: Path, text: str, commas: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = io.StringIO(text)  # unlike `splitlines`, it ends no line within a name, at U+2028 for one
    reader = (
        csv.reader(lines, strict=True)
        if commas
        else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    header: list[str] | None = None
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                named = [cell.strip().lower() for cell in cells]
                if "path" in named and "speaker" in named:
                    if len(set(named)) != len(named):
                        _fail(path, line, "a column stands there twice")
                    header = [n if n in _KNOWN else c.strip() for n, c in zip(named, cells, strict=True)]
                    continue
                if len(cells) != 2:
                    _fail(
                        path, line, "a header with path and speaker is missing (or two columns: path, label)"
                    )
                header = ["path", "speaker"]
            if len(cells) != len(header):
                _fail(path, line, f"{len(cells)} columns, expected {len(header)}")
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        _fail(path, reader.line_num, str(error))


_KNOWN = ("path", "speaker", "name", "tags")


def _row(path: Path, line: int, record: Mapping[str, Any], root: Path) -> ManifestRow:
    texts: dict[str, str] = {}
    for field in ("path", "speaker", "name"):
        value = record.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and field == "speaker":
            value = str(value)
        if value is not None and not isinstance(value, str):
            _fail(path, line, f"{field} is not a text")
        texts[field] = (value or "").strip()
        if field != "name" and not texts[field]:
            _fail(path, line, f"{field} is missing")
    tags = record.get("tags") or []
    if isinstance(tags, str):
        tags = tags.replace(";", ",").split(",")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        _fail(path, line, "tags is not a list of texts")
    nested = record.get("attributes")
    known = (*_KNOWN, "attributes") if isinstance(nested, dict) else _KNOWN
    rest = {key: value for key, value in record.items() if key not in known and value not in (None, "")}
    return ManifestRow(
        path=root / texts["path"],
        speaker=texts["speaker"],
        name=texts["name"] or None,
        tags=tuple(sorted({tag.strip() for tag in tags if tag.strip()})),
        attributes={**rest, **(nested if isinstance(nested, dict) else {})},
    )
