"""The training loop: a speaker model with a margin softmax and an angular prototypical term, resumable at every checkpoint.

What a step does depends on (config, corpus, step) alone, so a run that was killed goes on as if it had not been; only a schedule
that is cut by `minutes` depends on the machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from train.average import batch_norms, measure_norms
from train.batches import Batches
from train.centres import start_centres
from train.config import FitConfig
from train.data import BatchSampler
from train.distributed import Processes
from train.fixed_condition import FixedCondition
from train.objective import Objective, parameter_groups
from train.provenance import write_provenance
from train.schedule import in_last_part, learning_rate, margin
from train.split import read_corpus
from train.start import begin, resume
from train.state import load_state, read_facts, save_state
from train.validate import Validation, best_so_far, closed_set_accuracy, validate
from voicevault.encoder.checkpoint import save_checkpoint
from voicevault.errors import CheckpointError, SettingsError

CHECKPOINT_SECONDS = 150.0
SKIPPED_STEPS = 5
"""Without a finite gradient, one after the other, at which a training is given up; one alone may be half precision's."""
STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"


class Fit:
    """One training in `folder`.

    ``state.safetensors`` is resumed from, ``best.safetensors`` holds the averaged weights of the best validation,
    ``provenance.json`` says what was trained on what, ``tensorboard/`` shows the curves.

    Args:
        root: Corpus folder.
        cache_folder: Where decoded speech is kept.
        init: Model folder to start from instead of random weights.
        say: Called with lines for people.
    """

    def __init__(
        self,
        config: FitConfig,
        root: Path,
        folder: Path,
        cache_folder: Path,
        device: torch.device | str = "cpu",
        *,
        init: Path | None = None,
        processes: Processes | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.processes, self.say = processes or Processes(), say
        state = folder / STATE_FILE
        begun = read_facts(state) if state.exists() else None
        start = begin(config, init) if begun is None else resume(config, begun, folder, init)
        if not self.processes.first:
            self.processes.wait()  # for the first one to decode
        self.corpus = read_corpus(config, root, cache_folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.processes.first:
            self.processes.wait()
            self._say_skipped()
        d = config.data
        sampler = BatchSampler(self.corpus.cache, self.corpus.training, d.weights, config.seed, d.alike)
        self.batches = Batches(config, sampler, root, self.processes.rank, self.processes.world, self.device)
        self.objective = Objective(config, start.model, self.batches.classes, self.batches.collections).to(
            self.device
        )
        self.average = copy.deepcopy(self.objective.model).eval()
        o = config.optimiser
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.objective, o.learning_rate), lr=o.learning_rate
        )
        self.step, self.seconds, self.best, self.stale, self.skipped = 0, 0.0, math.inf, 0, 0
        self.start = start
        self._condition = (
            FixedCondition(config, root, self.corpus.cache, self.corpus.validation, self.device)
            if config.validation.augmented and self.processes.first
            else None
        )
        self._keeps_norms = start.init is not None and o.keep_norms
        self._identity = {
            "config": config.digest(),
            "corpus": self.corpus.cache.digest,
            "manifest": self.corpus.digest,
        }
        if begun is not None:
            self._resume()
        elif self.processes.first:
            if config.loss.centres == "embeddings":  # the others get them as they get all weights
                start_centres(self.objective, self.batches, self.device)
            write_provenance(folder, config, self.corpus.cache, root, init, start.init)

    @property
    def progress(self) -> float:
        """Of the schedule, in [0, 1]."""
        return self._progress_at(self.step)

    def _progress_at(self, step: int) -> float:
        """As far as is known now."""
        o = self.config.optimiser
        by_time = self.seconds / (60 * o.minutes) if o.minutes else 0.0
        return min(1.0, max(step / o.steps, by_time))

    @property
    def finished(self) -> bool:
        patience = self.config.validation.patience
        return self.progress >= 1.0 or bool(patience and self.stale >= patience)

    def _say_skipped(self) -> None:
        speech = self.corpus.cache
        if speech.skipped:
            every = speech.skipped + len(speech.utterances)
            self.say(
                f"{speech.skipped} of {every} recordings cannot be used, and are left out: see {speech.reasons}"
            )

    def _modules(self) -> dict[str, nn.Module]:
        return {"objective": self.objective, "average": self.average}

    def save(self) -> None:
        place = {"step": self.step, "seconds": self.seconds, "best": self.best, "stale": self.stale}
        facts = {**place, **self._identity, **self.start.facts()}
        save_state(self.folder / STATE_FILE, self._modules(), self.optimiser, facts)

    def _resume(self) -> None:
        facts = load_state(self.folder / STATE_FILE, self._modules(), self.optimiser)
        for what, digest in self._identity.items():
            if facts.get(what, digest) != digest:  # an earlier release noted less
                raise CheckpointError(
                    f"{self.folder} holds a training with another {what};"
                    f" name another --run folder, or restore the {what}"
                )
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.best, self.stale = facts["best"], facts["stale"]

    def train_step(
        self, module: nn.Module, waveforms: Tensor, labels: Tensor, tract: float = 1.0
    ) -> dict[str, float]:
        """One update; returns what TensorBoard shows."""
        o, progress = self.config.optimiser, self.progress
        rate, margin_now = learning_rate(self.config, progress), margin(self.config, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed(
            self.config.seed * 1_000_003 + self.step * self.processes.world + self.processes.rank
        )
        self.objective.train()
        if self._keeps_norms:
            for layer in batch_norms(self.objective):
                layer.eval()
        out = module(waveforms.to(self.device), labels.to(self.device), margin_now, tract)
        self.optimiser.zero_grad(set_to_none=True)
        out["loss"].backward()
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, o.clip_norm)
        # The norm is the same in all processes, so they skip a step together.
        if torch.isfinite(norm):
            self.optimiser.step()
            self.skipped = 0
            # Early on, a long memory would average noise.
            self._follow(min(o.average_decay, (1 + self.step) / (10 + self.step)))
        else:
            self._skip(rate)
        return {
            "loss/softmax": float(out["softmax"]),
            "loss/prototypical": float(out["prototypical"]),
            "loss/uniformity": float(out["uniformity"]),
            "train/accuracy": float(out["accuracy"]),
            "train/gradient_norm": float(norm),
            "schedule/learning_rate": rate,
            "schedule/margin": margin_now,
        }

    def _follow(self, decay: float) -> None:
        """The average goes towards the weights, and the statistics of batch norms, as they are now."""
        with torch.no_grad():
            averaged, current = self.average.state_dict(), self.objective.model.state_dict()
            for ours, theirs in zip(averaged.values(), current.values(), strict=True):
                if ours.is_floating_point():
                    ours.lerp_(theirs, 1.0 - decay)

    def _skip(self, rate: float) -> None:
        """Nothing is learnt from a step without a finite gradient; several in a row are the end.

        Raises:
            SettingsError: The training has diverged.
        """
        self.skipped += 1
        if self.skipped == SKIPPED_STEPS:
            raise self._diverged(f"{SKIPPED_STEPS} steps in a row had no finite gradient", rate)
        kept = dict(self.average.named_buffers())
        for name, buffer in self.objective.model.named_buffers():
            buffer.copy_(kept[name])  # statistics that this step's values have gone into

    def _diverged(self, how: str, rate: float) -> SettingsError:
        best = ""
        if math.isfinite(self.best):
            shown = best_so_far(self.config.validation.select, self.best)
            best = f" The best weights so far ({shown}) are kept: `python -m train export --run {self.folder} --to FOLDER`."
        return SettingsError(
            f"the training has diverged at step {self.step}: {how}, at a learning rate of {rate:.2g}. Lower"
            " optimiser.learning_rate (a third of it is a good try), lengthen optimiser.warmup_share or lower"
            f" optimiser.clip_norm, and train into another --run folder.{best}",
            step=self.step,
            learning_rate=rate,
        )

    def run(self) -> None:
        """Trains to the end of the schedule, validating and checkpointing on the way."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        first = self.processes.first
        module = self.processes.wrap(self.objective, self.device)
        validated = -1
        saved = tick = time.monotonic()
        smooth: dict[str, float] = {}
        with (
            SummaryWriter(self.folder / "tensorboard") as board,
            Progress(*columns, disable=not first) as bar,
        ):
            if self.start.init is not None and self.step == 0 and math.isinf(self.best):
                self._validate(board)  # weights that get no better than those it starts from are not kept
            task = bar.add_task("training", total=self.config.optimiser.steps, completed=self.step, shown="")
            last_part = lambda step: in_last_part(self.config, self._progress_at(step))  # noqa: E731
            for waveforms, labels, tract in self.batches.after(self.step, last_part):
                if self.finished:
                    break
                facts = self.train_step(module, waveforms, labels, tract)
                self.step += 1
                now = time.monotonic()
                self.seconds, tick = self.processes.agree(self.seconds + now - tick, self.device), now
                smooth = {k: 0.98 * smooth.get(k, v) + 0.02 * v for k, v in facts.items()}
                shown = f"loss {smooth['loss/softmax']:.2f} accuracy {smooth['train/accuracy']:.3f}"
                if math.isfinite(self.best):
                    shown += f" {best_so_far(self.config.validation.select, self.best)}"
                total = round(self.step / self.progress)
                bar.update(task, completed=self.step, total=total, shown=shown)
                if self.step % 20 == 0 and first:
                    for key, value in smooth.items():
                        board.add_scalar(key, value, self.step)
                if self.step % self.config.validation.every_steps == 0:
                    self._validate(board)
                    validated = self.step
                if now - saved > CHECKPOINT_SECONDS and first:
                    self.save()
                    saved = time.monotonic()
            if validated != self.step:
                self._validate(board)
            self.processes.wait()

    def _validate(self, board: SummaryWriter) -> None:
        """Keeps the weights where they are the best so far; a refit keeps its last."""
        if self.config.validation.refit:
            if self.processes.first:
                self.save()
            return
        loss = math.inf
        if self.processes.first:
            found = self._measured()
            for name, value in found.scalars().items():
                board.add_scalar(name, value, self.step)
            self.say(f"step {self.step}: validation {found}")
            loss = found.loss(self.config.validation.select)
            # Of equals the later: where few speakers are kept out, the EER is 0 long before the model is good.
            if loss <= self.best:
                facts = {
                    "step": self.step,
                    "eer": found.mean_eer,
                    "accuracy": found.accuracy,
                    "validation": str(found),
                    "last_part": in_last_part(self.config, self.progress),
                }
                save_state(self.folder / BEST_FILE, {"average": self.average}, None, facts)
        loss = self.processes.agree(loss, self.device)
        self.stale = 0 if loss < self.best else self.stale + 1
        self.best = min(self.best, loss)
        if self.processes.first:
            self.save()  # so that whatever comes, the best weights can be exported

    def _measured(self) -> Validation:
        corpus, classes = self.corpus, self.batches.sampler.classes
        try:
            found = validate(self.average, corpus, self.device, self._condition)
        except CheckpointError as error:
            rate = learning_rate(self.config, self.progress)
            raise self._diverged("the embeddings are not finite", rate) from error
        if not corpus.closed:
            return found
        cosines = self.objective.softmax.cosines
        closed = closed_set_accuracy(self.average, cosines, corpus.cache, corpus.closed, classes, self.device)
        return replace(found, accuracy=closed)

    def export(self, folder: Path, *, half: bool = True, last: bool = False) -> str:
        """The best averaged weights as a model folder, or with `last` those of the last step; returns its model_id.

        Batch-norm statistics are measured anew where the training changed them, on crops as long as those that
        the weights were trained on last.
        """
        model, last_part = copy.deepcopy(self.average), in_last_part(self.config, self.progress)
        if not last and (self.folder / BEST_FILE).exists():
            facts = load_state(self.folder / BEST_FILE, {"average": model}, None)
            last_part = facts.get("last_part", False)
        if not self._keeps_norms:
            measure_norms(model, self.batches, self.device, last_part)
        return save_checkpoint(model.eval(), folder, half=half)
