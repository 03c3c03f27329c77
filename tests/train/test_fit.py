"""The loop: killed and resumed, the same weights twice, early stop, fine-tuning, and two processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from train.__main__ import app
from train.config import FitConfig, read_config
from train.distributed import Processes
from train.fit import BEST_FILE, STATE_FILE, Fit
from train.state import read_facts
from train.validate import best_so_far, closed_set_accuracy, embed
from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.encoder.lazy import read_identity
from voicevault.errors import CheckpointError, SettingsError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def changed(config: FitConfig, section: str, **values: object) -> FitConfig:
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def fit(config: FitConfig, corpus: Path, run: Path, cache: Path, **options: object) -> Fit:
    return Fit(config, corpus, run, cache, say=lambda line: None, **options)  # type: ignore[arg-type]


def of_the_model(config: FitConfig) -> FitConfig:
    """The config without its [model], which --init brings."""
    values = config.model_dump(exclude={"model", "frontend"})
    return FitConfig.model_validate(values)


def weights(training: Fit) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.average.state_dict().items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def test_a_training_is_the_same_twice_and_when_it_was_stopped(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    config = read_config(config_file)
    whole = fit(config, corpus, tmp_path / "whole", cache)
    start = weights(whole)
    whole.run()
    assert whole.step == config.optimiser.steps
    assert any(not torch.equal(value, start[name]) for name, value in weights(whole).items())

    stopped = fit(config, corpus, tmp_path / "stopped", cache)
    for step, (waveforms, labels, _) in enumerate(stopped.batches.after(0, lambda step: False)):
        if step == 5:
            break
        stopped.train_step(stopped.objective, waveforms, labels)
        stopped.step += 1
    stopped.save()
    # Steps after the last checkpoint are lost in a kill, and made again.
    stopped.train_step(stopped.objective, *stopped.batches.make(5))

    resumed = fit(config, corpus, tmp_path / "stopped", cache)
    assert resumed.step == 5
    resumed.run()
    assert_equal(weights(resumed), weights(whole))

    exported = whole.export(tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    assert encoder.model_id == exported
    facts = json.loads((tmp_path / "whole" / "provenance.json").read_text(encoding="utf-8"))
    assert facts["data_sha256"] == whole.corpus.cache.digest
    assert facts["config"]["seed"] == 3


def test_a_killed_training_goes_on(corpus: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = config_file.read_text(encoding="utf-8").replace("steps = 12", "steps = 400")
    config_file.write_text(text.replace("every_steps = 4", "every_steps = 5"), encoding="utf-8")
    command = [sys.executable, "-c", (
        "import train.fit as f; f.CHECKPOINT_SECONDS = 0.2; from train.__main__ import main; main()"
    ), "fit", "--config", str(config_file), "--corpora", str(corpus), "--run", str(run), "--no-report"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 240
    while not (run / STATE_FILE).exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    resumed = fit(read_config(config_file), corpus, run, tmp_path / "cache")
    assert 0 < resumed.step < 400


def test_another_config_does_not_continue_a_run(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    config = read_config(config_file)
    fit(config, corpus, tmp_path / "run", cache).save()
    with pytest.raises(CheckpointError, match="another config"):
        fit(changed(config, "optimiser", learning_rate=0.1), corpus, tmp_path / "run", cache)
    (tmp_path / "run" / STATE_FILE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="does not fit"):
        fit(config, corpus, tmp_path / "run", cache)


def test_a_manifest_that_says_something_else_does_not_continue_a_run(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    """Who is kept out depends on sessions, so former training speakers would choose the weights."""
    listing = tmp_path / "listing.tsv"
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(text.replace("[data]", f'[data]\nmanifest = "{listing}"'), encoding="utf-8")
    config = read_config(config_file)
    rows = [(path.relative_to(corpus), path.parent.name) for path in sorted(corpus.glob("*/*.opus"))]

    def write(session: Callable[[Path], str]) -> None:
        lines = [f"{path}\t{speaker}\t{session(path)}" for path, speaker in rows]
        listing.write_text("\n".join(["path\tspeaker\tsession", *lines, ""]), encoding="utf-8")

    write(lambda path: "-")
    fit(config, corpus, tmp_path / "run", cache).save()
    fit(config, corpus, tmp_path / "run", cache)
    write(lambda path: path.stem)
    with pytest.raises(CheckpointError, match="another manifest"):
        fit(config, corpus, tmp_path / "run", cache)


def test_a_kill_before_the_first_step_does_not_count_as_a_validation_in_vain(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    config = of_the_model(changed(read_config(config_file), "optimiser", steps=1))
    said: list[str] = []
    first = Fit(config, corpus, tmp_path / "run", cache, init=tiny_model, say=said.append)
    with SummaryWriter(tmp_path / "board") as board:
        first._validate(board)
    Fit(config, corpus, tmp_path / "run", cache, say=said.append).run()
    assert [line.split(":")[0] for line in said] == ["step 0", "step 1"]


def test_a_training_ends_with_its_lists_thresholds_and_report(
    corpus: Path, config_file: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """Lists of one name in two folders are two lists."""
    text = config_file.read_text(encoding="utf-8")
    head, _, tail = text.partition("[model]")  # which --init brings
    config_file.write_text(head + tail[tail.index("[augment]") :], encoding="utf-8")
    checks = []
    for folder, last in (("a", 4), ("b", 5)):
        (tmp_path / folder).mkdir()
        lines = [f"1 alba/1.opus alba/{last}.opus", f"0 alba/1.opus david/{last}.opus"]
        (tmp_path / folder / "test.trials").write_text("\n".join([*lines, ""]), encoding="utf-8")
        checks += ["--check", str(tmp_path / folder / "test.trials")]
    run = tmp_path / "run"
    folders = ["--corpora", str(corpus), "--run", str(run), "--check-root", str(corpus)]
    done = CliRunner().invoke(
        app, ["fit", "--config", str(config_file), "--init", str(tiny_model), *folders, *checks]
    )
    assert done.exit_code == 0, done.output
    for folder in ("a", "b"):
        name = re.escape(str(tmp_path / folder / "test.trials"))
        assert re.search(rf"^{name}: EER [\d.]+% before, [\d.]+% now$", done.output, re.MULTILINE), (
            done.output
        )
    assert (run / "model" / "policy.json").is_file()
    assert (run / "report" / "report.html").stat().st_size > 10_000


def test_a_refit_keeps_nobody_out_and_ends_with_its_last_weights(
    corpus: Path, config_file: Path, tmp_path: Path, tiny_model: Path
) -> None:
    text = config_file.read_text(encoding="utf-8").replace("share = 0.25\nevery_steps = 4", "refit = true")
    head, _, tail = text.partition("[model]")  # which --init brings
    config_file.write_text(head + tail[tail.index("[augment]") :], encoding="utf-8")
    run = tmp_path / "run"
    folders = ["--corpora", str(corpus), "--run", str(run)]
    done = CliRunner().invoke(app, ["fit", "--config", str(config_file), "--init", str(tiny_model), *folders])
    assert done.exit_code == 0, done.output
    assert "model: step 12" in done.output
    assert "nobody was kept out" in done.output and "--stand-in" in done.output
    assert not (run / BEST_FILE).exists()
    assert not (run / "report").exists()
    again = fit(read_config(config_file), corpus, run, tmp_path / "cache")
    assert again.step == 12 and again.finished
    assert set(again.batches.sampler.classes) == {
        folder.name for folder in corpus.iterdir() if folder.is_dir()
    }
    assert again.export(tmp_path / "model") == read_identity(run / "model").model_id


def test_training_ends_early_where_validation_gets_no_better(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    config = changed(read_config(config_file), "validation", patience=1, every_steps=1)
    # With no learning nothing gets better after the first validation.
    config = changed(config, "optimiser", learning_rate=1e-12, steps=50)
    training = fit(config, corpus, tmp_path / "run", cache)
    training.run()
    assert training.step <= 3


def test_a_training_that_diverges_says_what_to_do_and_keeps_the_best_weights(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    config = changed(
        of_the_model(read_config(config_file)), "optimiser", learning_rate=1e30, warmup_share=0.0
    )
    training = fit(config, corpus, tmp_path / "run", cache, init=tiny_model)
    with pytest.raises(
        SettingsError, match=r"has diverged at step .* Lower optimiser\.learning_rate"
    ) as raised:
        training.run()
    assert f"train export --run {tmp_path / 'run'}" in raised.value.message
    assert raised.value.facts["learning_rate"] == pytest.approx(1e30, rel=0.3)
    kept = fit(config, corpus, tmp_path / "run", cache)
    kept.export(tmp_path / "model", half=False)
    given, _ = load_checkpoint(tiny_model)
    model, _ = load_checkpoint(tmp_path / "model")
    assert_equal(dict(model.network.state_dict()), dict(given.network.state_dict()))


def test_a_step_without_a_finite_gradient_changes_nothing(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    config = read_config(config_file)
    training = fit(config, corpus, tmp_path / "run", cache)
    waveforms, labels, _ = training.batches.make(0)
    training.train_step(training.objective, waveforms, labels)
    before, average = (
        {name: value.clone() for name, value in module.state_dict().items() if value.is_floating_point()}
        for module in (training.objective, training.average)
    )
    spoilt = waveforms.clone()
    spoilt[0, 100] = torch.inf
    training.train_step(training.objective, spoilt, labels)
    assert training.skipped == 1
    assert_equal(
        {name: value for name, value in training.average.state_dict().items() if name in average}, average
    )
    after = {name: value for name, value in training.objective.state_dict().items() if name in before}
    # The statistics of batch norms are the average's; no weight has moved.
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert all("running_" in name for name in moved)
    training.train_step(training.objective, waveforms, labels)
    assert training.skipped == 0
    assert not torch.equal(training.objective.softmax.weight, before["softmax.weight"])


def test_the_best_weights_may_be_those_of_the_best_closed_set_accuracy(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    config = changed(read_config(config_file), "validation", select="accuracy", recordings=5)
    config = changed(config, "optimiser", learning_rate=3e-3)
    lines: list[str] = []
    training = Fit(config, corpus, tmp_path / "run", cache, say=lines.append)
    kept, trained = training.corpus.closed, training.corpus.training
    assert len({u.speaker for u in kept}) == len(kept) == 5
    assert not {u.path for u in kept} & {u.path for u in trained}
    assert {u.speaker for u in kept} <= {u.speaker for u in trained}
    assert not {u.speaker for u in kept} & {u.speaker for u in training.corpus.validation}
    training.run()
    found = [float(re.findall(r"closed-set accuracy ([\d.]+)%", line)[0]) / 100 for line in lines]
    assert len(found) == 3
    assert training.best == pytest.approx(1 - max(found))
    best = read_facts(tmp_path / "run" / BEST_FILE)
    last = max(i for i, accuracy in enumerate(found) if accuracy == max(found))
    assert (best["step"], best["accuracy"]) == (4 * (last + 1), pytest.approx(max(found)))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = [event.value for event in events.Scalars("accuracy/closed_set")]
    assert shown == pytest.approx(found, abs=1e-4)
    assert best_so_far("accuracy", training.best) == f"best accuracy {max(found):.2%}"


def test_the_closed_set_accuracy_is_that_of_the_nearest_centre(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    training = fit(read_config(config_file), corpus, tmp_path / "run", cache)
    speakers = training.batches.sampler.classes
    chosen = [u for u in training.corpus.training if u.path.endswith("1.opus")]
    speech = training.corpus.cache
    own = torch.from_numpy(embed(training.average, speech, chosen, training.device))

    def accuracy(cosines: Callable[[torch.Tensor], torch.Tensor], of: Sequence[str] = speakers) -> float:
        return closed_set_accuracy(training.average, cosines, speech, chosen, of, training.device)

    centres = own[[[u.speaker for u in chosen].index(speaker) for speaker in speakers]]
    with_copies = torch.cat([centres, own, own])  # a copy's centre is no speaker's
    assert accuracy(lambda vectors: vectors @ with_copies.T) == 1.0
    assert accuracy(lambda vectors: vectors @ with_copies.T, speakers[::-1]) < 0.1


def test_fine_tuning_starts_from_the_given_model(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path, tiny_model: Path
) -> None:
    training = fit(of_the_model(read_config(config_file)), corpus, tmp_path / "run", cache, init=tiny_model)
    given, _ = load_checkpoint(tiny_model)
    assert_equal(dict(training.objective.model.network.state_dict()), dict(given.network.state_dict()))
    training.run()
    identity = training.export(tmp_path / "model", half=False)
    model, found = load_checkpoint(tmp_path / "model")
    assert found == identity
    assert model.config.architecture == given.config.architecture
    assert model.config.name == "small"


def test_wavlm_is_fine_tuned_below_its_frozen_convolutions(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path, wavlm_model: Path
) -> None:
    config = changed(of_the_model(read_config(config_file)), "optimiser", steps=2, layer_decay=0.5)
    training = fit(config, corpus, tmp_path / "run", cache, init=wavlm_model)
    scales = {group["scale"] for group in training.optimiser.param_groups}
    assert scales == {1.0, 0.5, 0.25, 0.125}
    before = weights(training)
    training.run()
    moved = {name for name, value in weights(training).items() if not torch.equal(value, before[name])}
    assert not any("feature_extractor.conv_layers" in name for name in moved)
    assert "network.layer_weights" in moved
    assert any("encoder.layers.0" in name for name in moved)
    resumed = fit(config, corpus, tmp_path / "run", cache)
    assert not resumed.objective.model.network.wavlm.feature_extractor._requires_grad
    assert_equal(weights(resumed), weights(training))


@pytest.mark.parametrize("ranks", [2])
def test_two_processes_train_one_model(corpus: Path, config_file: Path, tmp_path: Path, ranks: int) -> None:
    text = config_file.read_text(encoding="utf-8").replace("steps = 12", "steps = 3")
    config_file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "train", "fit", "--config", str(config_file), "--corpora", str(corpus), "--no-report"]
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "-o", str(run)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    state = load_file(run / STATE_FILE)
    assert any(name.startswith("objective/") for name in state)
    # The two draw different batches, so the weights are not those of one process alone.
    alone = fit(read_config(config_file), corpus, tmp_path / "alone", tmp_path / "cache")
    alone.run()
    one = {f"average/{name}": value for name, value in alone.average.state_dict().items()}
    assert any(not torch.equal(state[name], value) for name, value in one.items())


def test_processes_draw_different_batches(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    training = fit(read_config(config_file), corpus, tmp_path / "run", cache)
    batches = training.batches
    first, labels, _ = batches.make(7)
    again, *_ = batches.make(7)
    assert torch.equal(first, again)
    assert torch.equal(labels[: len(labels) // 2], labels[len(labels) // 2 :])
    batches.rank, batches.world = 1, 2
    other, *_ = batches.make(7)
    assert other.shape == first.shape
    assert not torch.equal(first, other)
    assert Processes(1, 2).first is False


def test_a_device_that_is_not_there_is_named_before_any_time_is_spent(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    arguments = [
        "fit",
        "--config",
        str(config_file),
        "--corpora",
        str(corpus),
        "--run",
        str(tmp_path / "run"),
    ]
    for device in ("cuda:99", "abacus"):
        done = CliRunner().invoke(app, [*arguments, "--device", device])
        assert isinstance(done.exception, SettingsError)
        assert "use --device cpu" in done.exception.message
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_a_validation_scores_the_kept_out_recordings_augmented_too(
    corpus: Path, config_file: Path, tmp_path: Path, cache: Path
) -> None:
    plain = read_config(config_file)
    # Runs that were begun before there was this key go on.
    assert "augmented" not in plain.as_json()["validation"]
    config = changed(plain, "validation", augmented=True)
    assert config.digest() != plain.digest()
    lines: list[str] = []
    training = Fit(config, corpus, tmp_path / "run", cache, say=lines.append)
    training.run()
    shown = [
        [float(rate) / 100 for rate in re.findall(r"([\d.]+)%", line)]
        for line in lines
        if re.search(r"EER [\d.]+% \(clean [\d.]+%; augmented [\d.]+%\)", line)
    ]
    assert len(shown) == 3
    for mean, clean, augmented in shown:
        assert mean == pytest.approx((clean + augmented) / 2, abs=1e-4)
    assert training.best == pytest.approx(min(mean for mean, *_ in shown), abs=1e-4)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for place, name in enumerate(("eer/clean_and_augmented", "eer/mean", "eer_augmented/mean")):
        assert [e.value for e in events.Scalars(name)] == pytest.approx([s[place] for s in shown], abs=1e-4)
