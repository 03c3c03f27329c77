"""Waveform to embedding beside SpeechBrain: the same weights, single recordings and batches, float32 and int8."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.encoder_parts import Bare, Call, Clips, SpeechBrain, closest, cosines, default_model, gpu_call
from benchmarks.plots import COLORS, INK, footer, legend, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.timing import interleaved, latency
from benchmarks.workbench import by_speaker, find_recordings, model_path
from voicevault.cores import available_cores
from voicevault.errors import RequestError
from voicevault.types import Float32Array

if TYPE_CHECKING:
    from rich.progress import Progress


PEER, FP32, INT8 = "SpeechBrain", "float32", "int8"
FRONT_END, BARE, DEFAULT = "front-end", "bare", "default model"
CASES = ("3 s", "10 s", "16 of 2 to 4 s")
GPU_RECORDINGS = 2048
REST = 0.02
"""Seconds between calls: threads that wait actively in one library must not slow the next contender down."""


def _threads() -> tuple[int, ...]:
    """Thread counts that the peer may choose from: 1, 2, 4, ... and every core."""
    cores = available_cores()
    return tuple(sorted({min(1 << i, cores) for i in range(cores.bit_length() + 1)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodersOptions(Options):
    widths: tuple[int, ...] = option((512, 1024), "channels of the networks that are compared", least=16)
    rounds: int = option(15, "timed calls per contender and case", least=2)
    peer_threads: tuple[int, ...] = option(_threads(), "thread counts that SpeechBrain may choose from")
    calibration: int = option(100, "recordings that int8 is calibrated on", least=8)


def measure(options: EncodersOptions, rows: Rows, progress: Progress) -> None:
    from voicevault.embedding import EmbeddingPipeline
    from voicevault.encoder import load_encoder

    if find_spec("speechbrain") is None:
        raise RequestError("The peer of this benchmark is missing. Install it: pip install speechbrain.")
    speakers = by_speaker(find_recordings(options))
    folder = model_path(options)
    task = progress.add_task("listening", total=None)
    pipeline = EmbeddingPipeline(load_encoder(folder, threads=1))
    clips = Clips(pipeline, list(speakers.values()))
    speech = [clips.cut(2.0 + 4.0 * (i % 8) / 7) for i in range(options.calibration)]
    cases = {
        CASES[0]: [clips.cut(3.0)],
        CASES[1]: [clips.cut(10.0)],
        CASES[2]: [clips.cut(2.0 + 2.0 * i / 15) for i in range(16)],
    }
    total = options.rounds * (len(options.widths) * len(cases) * (len(options.peer_threads) + 8) + 2)
    progress.update(task, description="calls", total=total)

    def step() -> None:
        time.sleep(REST)
        progress.advance(task)

    for width in options.widths:
        with tempfile.TemporaryDirectory(prefix="model-", dir=rows.path.parent) as made:
            _compare(options, rows, width, Path(made) / "model", speech, cases, step)
    for sample in interleaved(
        default_model(folder, cases[CASES[0]]), options.rounds, seed=options.seed, warmup=2, step=step
    ):
        rows.append("default", contender=sample.name, seconds=sample.wall, cpu=sample.cpu)


def _compare(
    options: EncodersOptions,
    rows: Rows,
    width: int,
    folder: Path,
    speech: Sequence[Float32Array],
    cases: dict[str, list[Float32Array]],
    step: Call,
) -> None:
    from voicevault.encoder.encoder import ModelEncoder
    from voicevault.encoder.quantization import quantize

    peer = SpeechBrain(width, speech[:48], options.seed)
    peer.export(folder)
    quantize(folder, speech)
    threads = available_cores()
    ours = {
        FP32: ModelEncoder(folder, threads=threads, precision="fp32"),
        INT8: ModelEncoder(folder, threads=threads, precision="int8"),
    }
    bare = {FP32: Bare(folder, "fp32", threads), INT8: Bare(folder, "int8", threads)}
    if (on_gpu := gpu_call(folder, cases[CASES[0]] * GPU_RECORDINGS)) is not None:
        for sample in interleaved(on_gpu, options.rounds, warmup=3):
            rows.append("gpu", width=width, gpu=sample.name, recordings=GPU_RECORDINGS, seconds=sample.wall)
    for case, waveforms in cases.items():
        alone = np.concatenate([peer.embed([samples]) for samples in waveforms])
        rows.append("spread", width=width, case=case, cosine=closest(peer, speech[:8]))
        found = {PEER: peer.embed(waveforms)} | {name: one.embed(waveforms) for name, one in ours.items()}
        for name, vectors in found.items():
            lowest = float(cosines(vectors, alone).min())
            rows.append("cosine", width=width, case=case, contender=name, lowest=lowest)
        calls: dict[str, Call] = {
            f"{PEER}\t{count}": peer.on_threads(count, waveforms) for count in options.peer_threads
        }
        for name, one in ours.items():
            calls[f"{name}\t"] = partial(one.embed, waveforms)
            calls |= {f"{BARE} {name}\t{how}": call for how, call in bare[name].forward(waveforms).items()}
        calls[f"{FRONT_END}\t"] = bare[FP32].front_end(waveforms)
        for sample in interleaved(calls, options.rounds, seed=options.seed, warmup=2, step=step):
            contender, how = sample.name.split("\t")
            rows.append(
                "call",
                width=width,
                case=case,
                contender=contender,
                how=how,
                recordings=len(waveforms),
                seconds=sample.wall,
                cpu=sample.cpu,
            )


def metrics(recorded: Recorded) -> Metrics:
    derived: dict[str, float | Unmeasured] = {}
    widths = recorded.distinct("width", "call")
    for width in (512, 1024):
        for case, short in zip(CASES, ("3_s", "10_s", "batch"), strict=True):
            for name in (FP32, INT8):
                speed, parts = f"{name}_{width}_{short}_speed_up", f"{name}_{width}_{short}_over_parts"
                cosine = f"{name}_{width}_{short}_cosine"
                if width not in widths:
                    unmeasured = Unmeasured(f"no network of {width} channels in this run")
                    derived |= dict.fromkeys((speed, parts, cosine), unmeasured)
                    continue
                own = _best(recorded, width, case, name)
                derived[speed] = _best(recorded, width, case, PEER) / own
                least = _best(recorded, width, case, f"{BARE} {name}") + _best(
                    recorded, width, case, FRONT_END
                )
                derived[parts] = own / least
                derived[cosine] = recorded.values("lowest", "cosine", width=width, case=case, contender=name)[
                    0
                ]
    for contender in ("engine", "torch"):
        derived[f"default_{contender}_ms"] = (
            1e3 * latency(recorded.values("cpu", "default", contender=contender)).p50
        )
    judged = [v for k, v in derived.items() if k.startswith(FP32) and k.endswith("cosine")]
    lowest = [v for v in judged if isinstance(v, float)]
    derived["float32_cosine"] = min(lowest) if lowest else Unmeasured("no network of 512 or 1,024 channels")
    worst = [v for k, v in derived.items() if k.endswith("over_parts") and isinstance(v, float)]
    derived["over_parts"] = max(worst) if worst else Unmeasured("no network of 512 or 1,024 channels")
    gpu = recorded.where("gpu", width=1024)
    rates = [row["recordings"] / row["seconds"] for row in gpu]
    derived["gpu_per_second"] = (
        latency(rates).p50 if rates else Unmeasured("no GPU, or no network of 1,024 channels")
    )
    return derived


def _best(recorded: Recorded, width: int, case: str, contender: str) -> float:
    """Median seconds of a contender in the way that suits it best."""
    ways = recorded.distinct("how", "call", width=width, case=case, contender=contender)
    return min(_median(recorded, width, case, contender, how) for how in ways)


def _median(recorded: Recorded, width: int, case: str, contender: str, how: str) -> float:
    found = recorded.values("seconds", "call", width=width, case=case, contender=contender, how=how)
    return latency(found).p50


def tables(recorded: Recorded) -> list[Table]:
    made = []
    for width in recorded.distinct("width", "call"):
        lines = []
        for case in recorded.distinct("case", "call", width=width):
            peer = _best(recorded, width, case, PEER)
            for contender in recorded.distinct("contender", "call", width=width, case=case):
                for how in recorded.distinct("how", "call", width=width, case=case, contender=contender):
                    calls = recorded.where("call", width=width, case=case, contender=contender, how=how)
                    count = calls[0]["recordings"]
                    median = _median(recorded, width, case, contender, how)
                    cpu = latency([row["cpu"] for row in calls]).p50
                    same = recorded.values("lowest", "cosine", width=width, case=case, contender=contender)
                    spelled = f"{how} thread{'s' * (how != '1')}" if contender == PEER else how
                    lines.append(
                        (
                            case,
                            ", ".join(filter(None, (contender, spelled))),
                            1e3 * median / count,
                            1e3 * cpu / count,
                            peer / median,
                            f"{same[0]:.6f}" if same else "",
                        )
                    )
        near = max(recorded.values("cosine", "spread", width=width))
        made.append(
            Table(
                f"ECAPA-TDNN, C = {width}, SpeechBrain's front-end: milliseconds per recording",
                ("recordings", "what", "median", "CPU", "x SpeechBrain", "lowest cosine"),
                lines,
                "Bare: the forward pass alone on ready features. Cosines are against SpeechBrain's embedding of each"
                f" recording alone; two different recordings have {near:.3f} at most.",
            )
        )
    ours = [
        (
            name,
            *(
                1e3 * latency(recorded.values(field, "default", contender=name)).p50
                for field in ("seconds", "cpu")
            ),
        )
        for name in recorded.distinct("contender", "default")
    ]
    made.append(
        Table("The model of this run, 3 s, one thread, milliseconds", ("what", "median", "CPU"), ours)
    )
    return made


def plot(recorded: Recorded, path: Path) -> None:
    widths = recorded.distinct("width", "call")
    figure, plots = new_figure(4.2 * len(widths) + 2, 4.2, len(widths), sharey=True)
    contenders = (PEER, FP32, INT8, FRONT_END)
    for axes, width in zip(plots, widths, strict=True):
        cases = recorded.distinct("case", "call", width=width)
        for place, (name, color) in enumerate(zip(contenders, COLORS, strict=False)):
            counts = [recorded.where("call", width=width, case=c)[0]["recordings"] for c in cases]
            heights = [1e3 * _best(recorded, width, c, name) / n for c, n in zip(cases, counts, strict=True)]
            bars = axes.bar(
                np.arange(len(cases)) + 0.2 * (place - 1.5), heights, 0.2, color=color, label=name
            )
            axes.bar_label(bars, fmt="%.3g", fontsize=7, color=INK)
        axes.set_xticks(range(len(cases)), cases)
        axes.set_title(f"C = {width}", loc="left", color=INK)
    plots[0].set_ylabel("Milliseconds per recording (median)")
    legend(plots[-1])
    footer(figure, where(recorded))
    save(figure, path)


def _speed(metric: str, name: str, least: float) -> Bound:
    return Bound(
        name=name, metric=f"{metric}_speed_up", unit="x SpeechBrain", at_least=least, why="the same weights"
    )


BENCHMARK = Benchmark(
    name="encoders",
    summary=__doc__,
    options=EncodersOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        _speed("float32_1024_3_s", "float32, C = 1024, 3 s", 1.25),
        _speed("float32_512_3_s", "float32, C = 512, 3 s", 1.8),
        _speed("float32_1024_10_s", "float32, C = 1024, 10 s", 1.7),
        _speed("float32_1024_batch", "float32, C = 1024, 16 of 2 to 4 s", 1.9),
        _speed("int8_1024_3_s", "int8, C = 1024, 3 s", 4.0),
        _speed("int8_1024_batch", "int8, C = 1024, 16 of 2 to 4 s", 5.0),
        Bound(
            name="float32 equals SpeechBrain",
            metric="float32_cosine",
            unit="",
            at_least=0.9999,
            why="each recording against encode_batch of it alone",
        ),
        Bound(
            name="little around the engine",
            metric="over_parts",
            unit="x",
            at_most=1.15,
            why="bare forward pass in the best way, plus the front-end's own time",
        ),
        Bound(
            name="bfloat16 on a GPU, C = 1024, 3 s",
            metric="gpu_per_second",
            unit="recordings/s",
            at_least=10_000.0,
            why="a GPU of the H200's class",
        ),
        Bound(name="the model, 3 s, one core", metric="default_engine_ms", unit="ms", at_most=15.0),
        Bound(name="the model in plain torch", metric="default_torch_ms", unit="ms", at_most=25.0),
    ),
    default=False,
    quick={"widths": (64,), "rounds": 2, "calibration": 8, "peer_threads": (1,)},
)
