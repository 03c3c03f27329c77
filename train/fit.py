"""The training loop: ECAPA-TDNN with AAM-softmax and an angular prototypical term, resumable at every checkpoint.

What a step does depends on (config, corpus, step) alone, so a run that was killed goes on as if it had not been; only a schedule
that is cut by `minutes` depends on the machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from train.augment import Augmenter
from train.config import FitConfig
from train.data import BatchSampler, SpeechCache, Utterance, read_manifest
from train.losses import AdditiveAngularMargin, AngularPrototypical
from train.split import pair_scores, split_speakers
from train.state import load_state, save_state
from voicevault.encoder.checkpoint import ModelConfig, SpeakerModel, save_checkpoint
from voicevault.errors import CheckpointError
from voicevault.scoring.metrics import equal_error_rate
from voicevault.types import SAMPLE_RATE, Float32Array

SPEEDS = ((10, 10), (9, 10), (11, 10))
CHECKPOINT_SECONDS = 150.0
NORM_BATCHES = 60


def learning_rate(config: FitConfig, progress: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    o = config.optimiser
    if progress < o.warmup_share:
        return o.learning_rate * max(progress / o.warmup_share, 0.01)
    rest = (progress - o.warmup_share) / max(1e-9, 1.0 - o.warmup_share)
    return o.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, rest))))


def margin(config: FitConfig, progress: float) -> float:
    o = config.optimiser
    if in_last_part(config, progress):
        return config.large_margin.margin
    return o.margin * min(1.0, progress / o.margin_share) if o.margin_share else o.margin


def in_last_part(config: FitConfig, progress: float) -> bool:
    return progress >= 1.0 - config.large_margin.share


class Batches:
    """Augmented crops and labels of a step, made by a thread one step ahead."""

    def __init__(self, config: FitConfig, sampler: BatchSampler, root: Path) -> None:
        self.config, self.sampler = config, sampler
        self.augment = Augmenter(config.augment, root, config.seed)
        self.classes = len(sampler.classes) * (len(SPEEDS) if config.data.speed_share else 1)

    def make(self, step: int, last_part: bool = False) -> tuple[Tensor, Tensor]:
        """float32 [2 * speakers, samples] and int64 classes [2 * speakers]; first one crop of each, then the other."""
        d, rng = self.config.data, np.random.default_rng((self.config.seed, 1, step))
        crops_of = self.config.large_margin.crops if last_part else d.crops
        speakers, seconds = crops_of[rng.integers(len(crops_of))]
        samples = round(seconds * SAMPLE_RATE)
        copied = not last_part and rng.random() < d.speed_share
        speed = int(rng.integers(1, len(SPEEDS))) if copied else 0
        old, new = SPEEDS[speed]
        crops, labels = self.sampler.draw(step, speakers, -(-samples * old // new))
        waveforms = torch.from_numpy(crops)
        if speed:
            waveforms = torchaudio.functional.resample(waveforms, old, new)[:, :samples]
        return self.augment(waveforms, step), torch.from_numpy(labels + speed * len(self.sampler.classes))

    def after(self, step: int, last_part: Callable[[], bool]) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1, "batches") as pool:
            ahead: Future[tuple[Tensor, Tensor]] = pool.submit(self.make, step, last_part())
            while True:
                step += 1
                ready, ahead = ahead, pool.submit(self.make, step, last_part())
                yield ready.result()


@dataclass(frozen=True, slots=True)
class Corpus:
    cache: SpeechCache
    training: list[Utterance]
    validation: list[Utterance]


def read_corpus(config: FitConfig, root: Path, cache_folder: Path) -> Corpus:
    cache = SpeechCache.build(read_manifest(root / config.data.manifest), root, cache_folder)
    split = split_speakers(cache.utterances, config.validation, config.seed)
    return Corpus(cache, split.training, split.validation)


class Fit:
    """One training in `folder`: ``state.safetensors`` (resumed from), ``tensorboard/`` and, on export, ``model/``."""

    def __init__(
        self, config: FitConfig, root: Path, folder: Path, cache_folder: Path, device: str = "cpu"
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.device = config, folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        self.corpus = read_corpus(config, root, cache_folder)
        d = config.data
        sampler = BatchSampler(self.corpus.cache, self.corpus.training, d.weights, config.seed)
        self.batches = Batches(config, sampler, root)
        self.model = SpeakerModel(ModelConfig(config.name, config.frontend, config.model)).to(self.device)
        self.average = copy.deepcopy(self.model).eval()
        network = self.model.network
        self.network = torch.compile(network, dynamic=False) if config.optimiser.compile else network
        o = config.optimiser
        self.aam = AdditiveAngularMargin(config.model.embedding, self.batches.classes, o.scale).to(
            self.device
        )
        self.prototypical = AngularPrototypical().to(self.device)
        named = [p for m in (self.model, self.aam, self.prototypical) for p in m.named_parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for _, p in named if p.ndim > 1], "weight_decay": o.weight_decay},
                {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=o.learning_rate,
        )
        s = config.spec_augment
        self.mask_bins = torchaudio.transforms.FrequencyMasking(s.bins, iid_masks=True)
        self.mask_frames = torchaudio.transforms.TimeMasking(s.frames, iid_masks=True)
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self._identity = {"config": config.digest(), "corpus": self.corpus.cache.digest}
        if self.state_path.exists():
            self._resume()

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def progress(self) -> float:
        o = self.config.optimiser
        by_time = self.seconds / (60 * o.minutes) if o.minutes else 0.0
        return min(1.0, max(self.step / o.steps, by_time))

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            "average": self.average,
            "aam": self.aam,
            "prototypical": self.prototypical,
        }

    def save(self) -> None:
        facts = {"step": self.step, "seconds": self.seconds, "best": self.best, **self._identity}
        save_state(self.state_path, self._modules(), self.optimiser, facts)

    def _resume(self) -> None:
        facts = load_state(self.state_path, self._modules(), self.optimiser)
        for what, digest in self._identity.items():
            if facts[what] != digest:
                raise CheckpointError(
                    f"{self.folder} holds a training with another {what}; name another --run folder, or restore the {what}"
                )
        self.step, self.seconds, self.best = facts["step"], facts["seconds"], facts["best"]

    def train_step(self, waveforms: Tensor, labels: Tensor) -> dict[str, float]:
        """One update; returns what TensorBoard shows."""
        o, half = self.config.optimiser, len(labels) // 2
        rate, margin_now = learning_rate(self.config, self.progress), margin(self.config, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        self.model.train()
        waveforms, labels = waveforms.to(self.device), labels.to(self.device)
        with torch.no_grad():
            features = self.model.frontend(waveforms)[0]
            features = self.mask_frames(self.mask_bins(features[:, None]))[:, 0]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=o.bfloat16):
            embeddings = self.network(features)
        aam, accuracy = self.aam(embeddings, labels, margin_now)
        prototypical = self.prototypical(embeddings[:half], embeddings[half:])
        loss = aam + o.prototypical * prototypical
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(
            [p for g in self.optimiser.param_groups for p in g["params"]], o.clip_norm
        )
        if torch.isfinite(norm):
            self.optimiser.step()
        # Early on, a long memory would average noise.
        decay = min(o.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for ours, theirs in zip(
                self.average.state_dict().values(), self.model.state_dict().values(), strict=True
            ):
                if ours.is_floating_point():
                    ours.lerp_(theirs, 1.0 - decay)
        return {
            "loss/aam": float(aam.detach()),
            "loss/prototypical": float(prototypical.detach()),
            "train/accuracy": float(accuracy),
            "train/gradient_norm": float(norm),
            "schedule/learning_rate": rate,
            "schedule/margin": margin_now,
        }

    def run(self) -> None:
        """Trains to the end of the schedule, validating and checkpointing on the way."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        saved = tick = time.monotonic()
        smooth: dict[str, float] = {}
        with SummaryWriter(self.folder / "tensorboard") as board, Progress(*columns) as bar:
            task = bar.add_task("training", total=self.config.optimiser.steps, completed=self.step, shown="")
            for waveforms, labels in self.batches.after(
                self.step, lambda: in_last_part(self.config, self.progress)
            ):
                if self.progress >= 1.0:
                    break
                facts = self.train_step(waveforms, labels)
                self.step += 1
                now = time.monotonic()
                self.seconds, tick = self.seconds + now - tick, now
                smooth = {k: 0.98 * smooth.get(k, v) + 0.02 * v for k, v in facts.items()}
                shown = f"aam {smooth['loss/aam']:.2f} accuracy {smooth['train/accuracy']:.3f} best EER {self.best:.2%}"
                total = round(self.step / self.progress)
                bar.update(task, completed=self.step, total=total, shown=shown)
                if self.step % 20 == 0:
                    for key, value in smooth.items():
                        board.add_scalar(key, value, self.step)
                if self.step % self.config.validation.every_steps == 0:
                    self._validate(board, bar)
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self.save()
            self._validate(board, bar)

    def _validate(self, board: SummaryWriter, bar: Progress) -> None:
        rates = self.validate(self.average)
        mean = sum(rates.values()) / len(rates)
        self.best = min(self.best, mean)
        for source, rate in rates.items():
            board.add_scalar(f"eer/{source}", rate, self.step)
        board.add_scalar("eer/mean", mean, self.step)
        each = ", ".join(f"{source} {rate:.2%}" for source, rate in rates.items())
        bar.console.print(f"step {self.step}: validation EER {mean:.2%} ({each})", soft_wrap=True)

    def validate(self, model: SpeakerModel) -> dict[str, float]:
        """EER per collection over all pairs of validation speakers."""
        utterances = self.corpus.validation
        vectors = embed(model, [self.corpus.cache.read(u) for u in utterances], self.device)
        rates = {}
        for source, (same, different) in pair_scores(vectors, utterances).items():
            labels = np.repeat([True, False], [len(same), len(different)])
            rates[source], _ = equal_error_rate(np.concatenate([same, different]), labels)
        return rates

    def export(self, folder: Path, *, half: bool = True) -> str:
        """The averaged weights, their batch-norm statistics measured anew, as a model folder; returns its model_id."""
        model = copy.deepcopy(self.average)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        model.train()
        with torch.no_grad():
            for i in range(NORM_BATCHES):
                waveforms, _ = self.batches.make(1_000_000_000 + i, last_part=True)
                model(waveforms.to(self.device))
        return save_checkpoint(model.eval(), folder, half=half)


def embed(
    model: SpeakerModel, waveforms: list[Float32Array], device: torch.device, batch: int = 32
) -> Float32Array:
    """Unit embeddings float32 [n, d], order kept; recordings are batched by length."""
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    shortest = 9_600
    vectors = np.zeros((len(waveforms), model.config.architecture.embedding), np.float32)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            items = [np.resize(waveforms[i], max(shortest, len(waveforms[i]))) for i in rows]
            lengths = torch.tensor([len(item) for item in items])
            padded = torch.zeros(len(rows), int(lengths.max()))
            for target, item in zip(padded, items, strict=True):
                target[: len(item)] = torch.from_numpy(item)
            out: Any = model(padded.to(device), lengths.to(device))
            vectors[rows] = F.normalize(out, dim=1).cpu().numpy()
    return vectors
