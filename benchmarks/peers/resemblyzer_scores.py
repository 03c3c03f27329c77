"""Scores of Resemblyzer's pretrained encoder on a trial list, as a peer to compare with; nothing here is used by the product.

It runs in an environment of its own, because Resemblyzer's dependencies are not ours::

    python -m venv peer && peer/bin/pip install torch resemblyzer soundfile 'setuptools<81'
    peer/bin/python benchmarks/peers/resemblyzer_scores.py TRIALS AUDIO_ROOT SCORES.tsv
    python -m train evaluate --scores SCORES.tsv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile
from resemblyzer import VoiceEncoder, preprocess_wav


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", type=Path, help="lines: label path path")
    parser.add_argument("audio_root", type=Path)
    parser.add_argument("scores", type=Path, help="written: label, path, path and score, separated by tabs")
    options = parser.parse_args()
    trials = [
        line.split() for line in options.trials.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    encoder = VoiceEncoder("cpu", verbose=False)
    vectors: dict[str, np.ndarray] = {}
    paths = sorted({path for _, *pair in trials for path in pair})
    for count, path in enumerate(paths, start=1):
        samples, rate = soundfile.read(options.audio_root / path, dtype="float32")
        vectors[path] = encoder.embed_utterance(preprocess_wav(samples, source_sr=rate))
        print(f"\r{count}/{len(paths)}", end="", file=sys.stderr)
    with options.scores.open("w", encoding="utf-8") as file:
        file.write("label\tenroll\ttest\tscore\n")
        for label, first, second in trials:
            score = float(np.dot(vectors[first], vectors[second]))
            file.write(f"{label}\t{first}\t{second}\t{score:.6f}\n")


if __name__ == "__main__":
    main()
