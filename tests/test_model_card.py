"""What the card and the README say of the default model is what the files beside them say, and what it scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import voicevault
from tests.conftest import CORPORA
from train.fit_cli import error_rates
from train.trials import read_trials

DEFAULT = Path(voicevault.__file__).parent / "models" / "default"
README = Path(__file__).parents[1] / "README.md"
LISTS = {"LibriSpeech test-other": "eval-librispeech.trials", "speechocean762 adults": "eval-so762.trials"}


def card() -> str:
    return (DEFAULT / "MODEL_CARD.md").read_text(encoding="utf-8")


def rows(text: str) -> dict[str, str]:
    """The table of error rates: list -> its line."""
    found = [line for line in text.splitlines() if re.match(r"\| .* trials \| [0-9.]+ %", line)]
    return {line.split("|")[1].strip(): line for line in found}


def test_the_readme_has_the_cards_error_rates() -> None:
    assert rows(README.read_text(encoding="utf-8")) == rows(card())
    assert len(rows(card())) == 4


def test_the_card_is_of_the_model_beside_it() -> None:
    identity = json.loads((DEFAULT / "config.json").read_text(encoding="utf-8"))["model_id"]
    assert f"`model_id` {identity}" in card()
    policy = json.loads((DEFAULT / "policy.json").read_text(encoding="utf-8"))
    assert policy["model_id"] == identity
    for row in policy["thresholds"]:
        shown = "–" if row["threshold"] is None else f"{row['threshold']:.3f}"
        assert re.search(rf"^\| {row['name'].replace('_', ' ')} \| [^|]+ \| {shown} \|", card(), re.M), row


@pytest.mark.parametrize("name", LISTS)
def test_the_model_reaches_what_the_card_says(name: str) -> None:
    path = CORPORA / LISTS[name]
    if not path.exists():
        pytest.skip(f"no trial list: {path} is not there")
    (line,) = (line for listed, line in rows(card()).items() if listed.startswith(name))
    (trials,) = re.findall(r"([0-9,]+) trials", line)
    assert len(read_trials(path).genuine) == int(trials.replace(",", ""))
    (stated,) = re.findall(r"\| ([0-9.]+) % \(", line)
    measured = error_rates(DEFAULT, [path], CORPORA)[path]
    # Processors round int8's sums differently: one of LibriSpeech's 450 genuine pairs is 0.22 points.
    assert 100 * measured == pytest.approx(float(stated), abs=0.25)
