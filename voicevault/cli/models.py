"""``models list | show | import | pull | migrate | quantize | bench``: the networks that turn voices into embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voicevault.cli import render
from voicevault.cli.command import Session, YesOption, add_command, add_group
from voicevault.cli.model_speed import bench, quantize
from voicevault.errors import ModelNotFoundError, RequestError
from voicevault.text import printable

if TYPE_CHECKING:
    from voicevault.encoder.store import ModelStore, StoredModel
    from voicevault.migration import Migration

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A name of `models list`, or the start of a model_id.", show_default=False
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What to call it; else after where it comes from.", show_default=False),
]
FrontendOption = Annotated[
    str | None,
    typer.Option(
        "--front-end", metavar="TOOLKIT", help="For ONNX files: wespeaker or 3d-speaker.", show_default=False
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="For ONNX files: a setting of the front-end that differs, such as window=povey, dither=1.0 or scale=1.0.",
        show_default=False,
    ),
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Give up a model of this name for it.")]


def register(app: typer.Typer) -> None:
    group = add_group(app, "models", "List, import and download the models that turn voices into embeddings.")
    add_command(group, "list", list_models)
    add_command(group, "show", show)
    add_command(group, "import", import_)
    add_command(group, "pull", pull)
    add_command(group, "migrate", migrate)
    add_command(group, "quantize", quantize)
    add_command(group, "bench", bench, shows=("threads", "device"))


def list_models(session: Session) -> None:
    """List the models: the one that comes with voicevault, then those that were imported.

    The one marked with * is used for new collections; choose another with --model.
    """
    found, used = _store(session).models(), _in_use(session)
    rows = [
        (
            "*" if model.folder == used else "",
            model.name,
            model.identity.model_id[:12] if model.identity else "",
            model.identity.dim if model.identity else "",
            model.architecture,
            _size(model.bytes),
            model.problem or (model.source.origin if model.source else ""),
        )
        for model in found
    ]
    columns = ("", "model", "model_id", "dim", "architecture", "size", "from")
    session.answer(
        {"models": [_document(model, used) for model in found]},
        render.table(columns, rows, numbers=("dim", "size")),
    )


def show(
    session: Session,
    model: ModelArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Load it, to see that its weights are whole.")
    ] = False,
) -> None:
    """Show everything known of a model: architecture, front-end, where it came from, and its files."""
    found = _store(session).get(model)
    shown = _document(found, _in_use(session))
    if check:
        from voicevault.encoder import load_encoder

        shown["loads"] = load_encoder(found.folder).model_id == shown["model_id"]
    session.answer(shown)
    if not session.json:
        for name, value in _lines(shown):
            session.say(f"{name:<32}  {printable(value)}")


def import_(
    session: Session,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A model folder, or an .onnx file.", show_default=False)
    ],
    name: NameOption = None,
    front_end: FrontendOption = None,
    settings: SetOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Bring a model into the store: of voicevault, SpeechBrain (ECAPA-TDNN), transformers (WavLM x-vector), or ONNX.

    Weights are read as data; nothing in the files is executed.
    """
    from voicevault.encoder.importing import import_model

    added = import_model(
        _store(session), path, name, frontend=front_end, settings=_pairs(settings), replace=replace
    )
    _added(session, added)


def pull(
    session: Session,
    repository: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME",
            help="On huggingface.co, e.g. speechbrain/spkrec-ecapa-voxceleb.",
            show_default=False,
        ),
    ],
    name: NameOption = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Branch, tag or commit; else the newest.", show_default=False),
    ] = None,
    front_end: FrontendOption = None,
    settings: SetOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Download a model from the Hugging Face hub and import it, at a commit that is recorded.

    Nothing but this command uses the network. Without one, download the files elsewhere and `voicevault models import` them.
    """
    from voicevault.encoder.hub import pull as download

    added = download(
        _store(session),
        repository,
        name,
        revision=revision,
        frontend=front_end,
        settings=_pairs(settings),
        replace=replace,
        progress=lambda file: session.note(f"Downloading {printable(file)} ..."),
    )
    _added(session, added)


def migrate(
    session: Session,
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="The collection to change.", show_default=False)
    ],
    model: ModelArgument,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Go on without enrollments whose speech was not kept.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make all ready and measure it, but do not switch.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Put a collection onto another model, from the speech that it kept (`collections create --keep-audio`).

    It answers as before until the switch; the error rates of both models are shown first. To go back, migrate to the former
    model: the collection on it stays, and what was enrolled and forgotten since is done there too.
    """
    from rich.progress import Progress

    with session.vault() as vault:
        with Progress(console=session.err, disable=not session.err.is_terminal, transient=True) as bar:
            task = bar.add_task("Embedding", total=None)
            found = vault.migrate(
                collection,
                model,
                switch=False,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        for line in _prepared(found):
            session.note(line)
        if dry_run:
            told = "Nothing was switched. Run it again without --dry-run to do so."
        else:
            session.confirm(f"Switch {collection!r} to this model?", yes)
            found = vault.migrate(collection, model, leave_out=leave_out)
            told = (
                f"Switched {printable(collection)!r}. What it was is {printable(found.backup)!r}; to go back:"
                f" voicevault models migrate {collection} {found.from_model[:12]}"
            )
    session.answer(asdict(found), told)


def _prepared(found: Migration) -> Iterator[str]:
    yield f"{found.recordings} recordings are embedded with model {found.to_model}, in {printable(found.target)!r}."
    if found.eer_before is None or found.eer_after is None:
        yield "Too few speakers, or recordings of one, to measure error rates."
    else:
        yield (
            f"EER over {found.genuine} pairs of one speaker and {found.impostor} of two:"
            f" {100 * found.eer_before:.2f} % before, {100 * found.eer_after:.2f} % after."
        )
    if found.enroll_again:
        yield f"Must enroll again: {', '.join(map(printable, found.enroll_again))}"
    if found.partly:
        yield f"Lose some of their enrollments: {', '.join(map(printable, found.partly))}"


def _store(session: Session) -> ModelStore:
    from voicevault.encoder.store import ModelStore

    return ModelStore(session.settings.models_folder)


def _in_use(session: Session) -> Path | None:
    from voicevault.bootstrap import model_folder

    try:
        return model_folder(session.settings)
    except ModelNotFoundError:
        return None


def _added(session: Session, added: StoredModel) -> None:
    assert added.identity is not None
    document = _document(added, None)
    text = (
        f"Imported {added.name!r}: {added.architecture}, {added.identity.dim} dimensions, model_id {added.identity.model_id}.\n"
        f"Make a collection with it: voicevault collections create NAME --model {added.name}"
    )
    if not document["policy"]:
        text += (
            "\nIt has no thresholds of its own (policy.json): verify and identify need --threshold with it."
        )
    session.answer(document, text)


def _document(model: StoredModel, used: Path | None) -> dict[str, Any]:
    identity, source = model.identity, model.source
    return {
        "name": model.name,
        "model_id": identity.model_id if identity else None,
        "dim": identity.dim if identity else None,
        "in_use": model.folder == used,
        "folder": str(model.folder),
        "bytes": model.bytes,
        "policy": (model.folder / "policy.json").is_file(),
        "problem": model.problem,
        "architecture": model.config.get("architecture"),
        "frontend": model.config.get("frontend"),
        "source": {
            "kind": source.kind,
            "origin": source.origin,
            "revision": source.revision,
            "created": source.created,
            "files": dict(source.files),
        }
        if source
        else None,
    }


def _pairs(given: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` each; the value as JSON where it is some, else as text."""
    found: dict[str, Any] = {}
    for pair in given or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"{pair!r} is no setting; give --set KEY=VALUE.")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _lines(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Names and values of the document; those of its inner objects behind their own."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from ((f"{name} {key}", inner) for key, inner in _lines(value))
        elif value is not None:
            yield name, value


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
