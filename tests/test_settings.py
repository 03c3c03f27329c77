"""Settings: who wins, what is refused and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voicevault.bootstrap import model_folder, resolve_settings
from voicevault.errors import ModelNotFoundError, SettingsError
from voicevault.settings import Settings, masked


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("VOICEVAULT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_arguments_before_environment_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8420
    monkeypatch.setenv("VOICEVAULT_PORT", "9000")
    monkeypatch.setenv("VOICEVAULT_MIN_PROBE_SPEECH", "0.75")
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001
    assert Settings(port=None, min_probe_speech=None).port == 9000  # a flag that was not given
    assert Settings(port=9001).min_probe_speech == 0.75


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings().home == tmp_path / "voicevault"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Settings().home == tmp_path / "me" / ".local" / "share" / "voicevault"
    monkeypatch.setenv("VOICEVAULT_HOME", "~/voices")
    settings = Settings()
    assert settings.home == tmp_path / "me" / "voices"
    assert settings.resolved_database_url == f"sqlite:///{settings.home}/voicevault.db"
    assert settings.index_folder == settings.home / "index"
    assert settings.models_folder == settings.home / "models"
    monkeypatch.chdir(tmp_path)
    assert Settings(home="here").home == tmp_path / "here"


def test_users_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"VOICEVAULT_HOME.*no home for ~nosuchuser"):
        Settings(home="~nosuchuser/voices")
    with pytest.raises(ModelNotFoundError, match="~nosuchuser"):
        model_folder(Settings(home=tmp_path, model="~nosuchuser/model"))
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)  # as in a container that runs as anybody
    with pytest.raises(SettingsError, match="Set VOICEVAULT_HOME"):
        Settings()
    assert Settings(home=tmp_path).home == tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "many"),
        ("port", "70000"),
        ("threads", "0"),
        ("workers", "-1"),
        ("min_enroll_speech", "0"),
        ("min_probe_speech", "nan"),
        ("max_seconds", "inf"),
        ("max_bytes", "1.5"),
        ("lock_timeout", "-3"),
        ("model", ""),
        ("home", ""),
        ("database_url", ""),
        ("threads", "100000"),
        ("workers", "100000"),
        ("concurrency", "100000"),
        ("queue", "-1"),
        ("approximate_recall", "1"),
        ("approximate_recall", "0.4"),
        ("approximate_recall", "nan"),
    ],
)
def test_wrong_values_name_the_setting_and_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VOICEVAULT_{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert f"{name} (or VOICEVAULT_{name.upper()})" in caught.value.message
    monkeypatch.delenv(f"VOICEVAULT_{name.upper()}")
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


def test_all_problems_in_one_message() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(port="x", workers=0, colour="blue")
    assert len(caught.value.facts["problems"]) == 3
    assert "there is no setting colour" in caught.value.message


def test_allowed_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().allowed_hosts == []
    monkeypatch.setenv("VOICEVAULT_ALLOWED_HOSTS", "voices.example.org, 10.0.0.7,")
    assert Settings().allowed_hosts == ["voices.example.org", "10.0.0.7"]
    assert Settings(allowed_hosts=["a"]).allowed_hosts == ["a"]


def test_changed_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(port=9001, workers=3)
    monkeypatch.setenv("VOICEVAULT_LOCK_TIMEOUT", "99")
    changed = settings.changed(workers=4, port=None)
    assert (changed.port, changed.workers, changed.lock_timeout) == (9001, 4, 10.0)
    assert settings.workers == 3
    with pytest.raises(SettingsError):
        settings.changed(workers=0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:se:c@ret@db/v", "postgresql://ann:***@db/v"),
        (
            "postgresql://db/v?password=secret&sslmode=require",
            "postgresql://db/v?password=***&sslmode=require",
        ),
        ("postgresql://ann@db/v", "postgresql://ann@db/v"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
    resolved = Settings(database_url=url).resolved()
    assert resolved["database_url"] == shown
    assert json.loads(json.dumps(resolved)) == resolved


def test_what_open_takes(tmp_path: Path) -> None:
    given = Settings(port=1)
    assert resolve_settings(given) is given
    assert resolve_settings("postgresql://db/v").database_url == "postgresql://db/v"
    assert resolve_settings(tmp_path / "x").home == tmp_path / "x"
    assert resolve_settings(str(tmp_path / "x")).home == tmp_path / "x"
    assert resolve_settings().home == Settings().home
