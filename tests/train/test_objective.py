"""The trained whole with copies from another vocal tract, and batch norms that a fine-tune keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from train.batches import TRACTS
from train.config import FitConfig
from train.fit import Fit
from train.objective import Objective, computes_bfloat16
from voicevault.encoder.checkpoint import ModelConfig, SpeakerModel, load_checkpoint
from voicevault.encoder.frontend import LogMel

SETTINGS = {
    "name": "x",
    "seed": 2,
    "data": {"crops": ((5, 0.6),), "tract_share": 0.5, "speed_share": 0.0},
    "validation": {"share": 0.25},
    "large_margin": {"crops": ((5, 0.8),)},
    "augment": {"rooms": 2},
    "spec_augment": {"bins": 0, "frames": 0},
    "optimiser": {"steps": 3, "bfloat16": False, "average_decay": 0.5},
}
SMALL = {
    "channels": 32, "aggregate": 48, "embedding": 24, "stride": 2, "se_channels": 8, "attention_channels": 8,
}  # fmt: skip


def objective() -> Objective:
    config = FitConfig.model_validate({**SETTINGS, "model": SMALL})
    torch.manual_seed(0)
    model = SpeakerModel(ModelConfig(config.name, config.frontend, config.model))
    return Objective(config, model, classes=9).eval()


def test_another_tract_changes_the_features_and_nothing_else() -> None:
    whole = objective()
    waveforms = 0.1 * torch.randn(6, 9600, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 6, 0, 3, 6])
    with torch.no_grad():
        losses = {tract: whole(waveforms, labels, 0.2, tract) for tract in (1.0, *TRACTS)}
        assert len({float(found["softmax"]) for found in losses.values()}) == 3
        for tract in TRACTS:
            features, _ = LogMel(whole.model.config.frontend, tract)(waveforms)
            by_hand, _ = whole.softmax(whole.model.network(features), labels, 0.2)
            assert float(losses[tract]["softmax"]) == pytest.approx(float(by_hand), rel=1e-5)
    with pytest.raises(KeyError):
        whole(waveforms, labels, 0.2, 0.5)


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists(), reason="only Linux lists what a processor can do in a file"
)
def test_bfloat16_is_for_processors_that_have_it() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert computes_bfloat16("cpu") == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.parametrize("able", [True, False])
def test_a_network_runs_in_bfloat16_where_that_is_computed_in(
    monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    config = FitConfig.model_validate(
        {**SETTINGS, "model": SMALL, "optimiser": {"steps": 1, "bfloat16": True}}
    )
    whole = Objective(config, SpeakerModel(ModelConfig("x", config.frontend, config.model)), classes=3)
    seen: list[torch.dtype] = []
    whole.model.network.project.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    monkeypatch.setattr("train.objective.computes_bfloat16", lambda _device: able)
    whole(torch.randn(4, 9600), torch.tensor([0, 1, 0, 1]), 0.2)
    assert seen == [torch.bfloat16 if able else torch.float32]


def test_the_copies_front_ends_leave_no_trace_in_a_state() -> None:
    config = FitConfig.model_validate({**SETTINGS, "model": SMALL, "data": {"tract_share": 0.0}})
    model = SpeakerModel(ModelConfig(config.name, config.frontend, config.model))
    assert objective().state_dict().keys() == Objective(config, model, classes=9).state_dict().keys()


def test_rivals_are_of_the_own_collection_where_the_config_says_so() -> None:
    collections = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    for rivals, restricted in (("all", False), ("collection", True)):
        config = FitConfig.model_validate({**SETTINGS, "model": SMALL, "loss": {"rivals": rivals}})
        model = SpeakerModel(ModelConfig(config.name, config.frontend, config.model))
        found = Objective(config, model, 9, collections).softmax.collections
        assert (found is not None) == restricted
        assert found is None or torch.equal(found, collections)


def test_uniformity_is_a_term_with_the_weight_of_the_config() -> None:
    collections = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    waveforms = 0.1 * torch.randn(6, 9600, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 3, 0, 1, 3])
    found = {}
    for weight in (0.0, 1.0, 2.0):
        config = FitConfig.model_validate({**SETTINGS, "model": SMALL, "loss": {"uniformity": weight}})
        torch.manual_seed(0)
        model = SpeakerModel(ModelConfig(config.name, config.frontend, config.model))
        with torch.no_grad():
            found[weight] = Objective(config, model, 9, collections).eval()(waveforms, labels, 0.2)
    term = float(found[1.0]["uniformity"])
    assert abs(term) > 1e-3
    for weight, out in found.items():
        assert float(out["loss"]) == pytest.approx(float(found[0.0]["loss"]) + weight * term, rel=1e-4)


@pytest.mark.parametrize("keep", [True, False])
def test_a_fine_tune_keeps_batch_norm_statistics_where_it_is_told_to(
    keep: bool, corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    optimiser = {**SETTINGS["optimiser"], "keep_norms": keep}  # type: ignore[dict-item]
    config = FitConfig.model_validate({**SETTINGS, "optimiser": optimiser})
    training = Fit(
        config, corpus, tmp_path / "run", tmp_path / "cache", init=tiny_model, say=lambda line: None
    )
    given = load_checkpoint(tiny_model)[0].network.state_dict()
    training.run()
    training.export(tmp_path / "model", half=False)
    for network in (training.average.network, load_checkpoint(tmp_path / "model")[0].network):
        state = network.state_dict()
        moved = [name for name in given if "running_" in name and not torch.equal(state[name], given[name])]
        statistics = [name for name in given if "running_" in name]
        assert moved == ([] if keep else statistics)
    assert not torch.equal(training.average.network.state_dict()["project.weight"], given["project.weight"])
