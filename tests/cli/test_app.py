"""What holds for every command: help, settings as flags, exit codes, nothing heavy loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import voicevault
from tests.cli.conftest import Run
from voicevault import errors
from voicevault.cli.app import EPILOG, PARTS, make_app
from voicevault.cli.exits import EXIT_CODES, HINTS
from voicevault.cli.flags import FLAGS
from voicevault.settings import Settings

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def all_commands() -> list[list[str]]:
    app = make_app()
    found = [[str(one.name)] for one in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found += [[str(group.name), str(one.name)] for one in group.typer_instance.registered_commands]
    return found


def error_classes() -> list[type[errors.VoicevaultError]]:
    found = [errors.VoicevaultError]
    for one in found:
        found += one.__subclasses__()
    return found


def test_every_setting_is_a_flag_and_is_documented() -> None:
    assert [flag.setting for flag in FLAGS] == list(Settings.model_fields)
    for flag in FLAGS:
        assert f"| `{flag.option}` | `{flag.variable}` |" in DOCS


def test_exit_codes_are_those_of_the_errors_and_are_documented() -> None:
    of_errors = {one.exit_code for one in error_classes()}
    assert of_errors == set(range(1, 10))
    assert of_errors < set(EXIT_CODES)
    for code in EXIT_CODES:
        assert f"| {code} |" in DOCS
        assert f"{code} {EXIT_CODES[code]}" in EPILOG


def test_hints_are_for_codes_that_exist() -> None:
    assert set(HINTS) <= {one.code for one in error_classes()}


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_each_command_explains_itself_and_takes_json_and_settings(command: list[str], run: Run) -> None:
    told = run(*command, "--help")
    assert told.code == 0
    assert {"--json", "--home", "--database-url", "--model"} <= set(told.out.split())
    assert f"voicevault {command[0]}" in DOCS


def test_the_parts_are_all_there(run: Run) -> None:
    told = run("--help").out
    for name in [
        "enroll",
        "import",
        "identify",
        "verify",
        "speakers",
        "collections",
        "serve",
        "db",
        "settings",
        "demo",
    ]:
        assert name in told
    assert "Exit codes" in told
    assert len({part.__name__ for part in PARTS}) == len(PARTS)


def test_a_part_is_added_by_its_register_function() -> None:
    for part in PARTS:
        app = typer.Typer()
        part.register(app)
        assert app.registered_commands or app.registered_groups


def test_version(run: Run) -> None:
    assert run("--version").out == f"voicevault {voicevault.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['voicevault', '--help']\n"
        "from voicevault.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'faiss', 'sqlalchemy', 'alembic', 'pydantic', 'fastapi', 'httpx', 'onnxruntime'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("LOADED []")


def test_settings_say_where_they_come_from(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOICEVAULT_DATABASE_URL", "postgresql://me:secret@db/voices")
    monkeypatch.setenv("VOICEVAULT_PROT", "1")
    told = run("settings", "--port", "9001", "--json")
    assert told.json["port"] == {"value": 9001, "source": "flag --port"}
    assert told.json["home"] == {"value": str(tmp_path / "home"), "source": "environment VOICEVAULT_HOME"}
    assert told.json["queue"]["source"] == "default"
    assert told.json["index_folder"]["source"] == "from home"
    assert "secret" not in told.out
    assert "VOICEVAULT_PROT" in told.err
    table = run("settings", "--port", "9001").out
    assert "9001" in table and "flag --port" in table


def test_flags_win_over_the_environment(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("speakers", "list", "--home", other).code == 0
    assert (other / "voicevault.db").is_file()
    assert not (tmp_path / "home").exists()


def test_a_wrong_setting_is_named(run: Run) -> None:
    told = run("settings", "--port", "70000", "--json")
    assert told.code == 2
    assert told.json["error"]["code"] == "INVALID_SETTING"
    assert "port" in told.json["error"]["message"]


def test_a_data_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told = run("speakers", "list", "--home", tmp_path / "file" / "home", "--json")
    assert told.code == 2
    assert told.json["error"]["code"] == "INVALID_SETTING"
    assert "VOICEVAULT_HOME" in told.json["error"]["message"]
