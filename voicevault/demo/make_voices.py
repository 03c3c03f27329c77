"""Makes the demo voices with speech synthesisers from Debian: ``python -m voicevault.demo.make_voices FOLDER``.

Needs the Debian packages that `PROVENANCE.md` lists; users never need it, since its result ships with the package.
Writes ``FOLDER/<speaker>/<n>.opus`` (16 kHz mono Ogg Opus), and ``enroll.tsv`` beside the folder: the manifest of what
the demo enrolls.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voicevault.types import SAMPLE_RATE, Float32Array

ENROLLED_SENTENCES = (1, 2, 3, 4)
"""Of each enrolled speaker; the others are held out for identification."""

SENTENCES = {
    "en": (
        "The harbour was quiet that morning, and the first boats came home before the rain.",
        "She counted the stairs twice, because the number had been different the evening before.",
        "Please bring two loaves of bread, a jar of honey, and the letter on the kitchen table.",
        "Nobody in the village could say who had painted the old bridge such a bright yellow.",
        "The train to the mountains leaves at seven, so we should be at the station a little earlier.",
        "After the concert they walked along the river and talked about the music for an hour.",
    ),
    "ca": (
        "El port era tranquil aquell matí, i les primeres barques van tornar abans de la pluja.",
        "Va comptar els graons dues vegades, perquè el nombre havia estat diferent el vespre abans.",
        "Si us plau, porta dos pans, un pot de mel i la carta que hi ha sobre la taula de la cuina.",
        "Ningú del poble no sabia dir qui havia pintat el pont vell d'un groc tan viu.",
        "El tren cap a les muntanyes surt a les set, així que hauríem d'arribar una mica abans.",
        "Després del concert van caminar vora el riu i van parlar de la música durant una hora.",
    ),
    "fi": (
        "Satama oli hiljainen sinä aamuna, ja ensimmäiset veneet palasivat kotiin ennen sadetta.",
        "Hän laski portaat kahteen kertaan, koska luku oli ollut erilainen edellisenä iltana.",
        "Tuo kaksi leipää, purkki hunajaa ja kirje, joka on keittiön pöydällä.",
        "Kukaan kylässä ei osannut sanoa, kuka oli maalannut vanhan sillan kirkkaan keltaiseksi.",
        "Juna vuorille lähtee kello seitsemän, joten meidän pitäisi olla asemalla vähän aikaisemmin.",
        "Konsertin jälkeen he kävelivät jokea pitkin ja puhuivat musiikista tunnin ajan.",
    ),
    "ru": (
        "Гавань в то утро была тихой, и первые лодки вернулись домой до дождя.",
        "Она дважды пересчитала ступени, потому что накануне вечером их было другое число.",
        "Пожалуйста, принеси две буханки хлеба, банку мёда и письмо с кухонного стола.",
        "Никто в деревне не мог сказать, кто покрасил старый мост в такой яркий жёлтый цвет.",
        "Поезд в горы уходит в семь, поэтому нам лучше быть на станции немного раньше.",
        "После концерта они шли вдоль реки и целый час говорили о музыке.",
    ),
}


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker: which program speaks, with which of its voices, and in what language.

    Attributes:
        enrolled: False for the voices that stay unknown to the demo's gallery.
    """

    speaker: str
    program: str
    voice: str
    language: str
    about: str
    enrolled: bool = True


VOICES = (
    Voice("angus", "flite", "awb", "en", "Scottish English man"),
    Voice("ona", "festival", "upc_ca_ona_hts", "ca", "Catalan woman"),
    Voice("ray", "flite", "rms", "en", "US English man"),
    Voice("liisa", "festival", "suo_fi_lj_diphone", "fi", "Finnish woman"),
    Voice("mauri", "festival", "hy_fi_mv_diphone", "fi", "Finnish man"),
    Voice("keith", "festival", "ked_diphone", "en", "US English man, diphones"),
    Voice("anika", "espeak-ng", "en-us+anika", "en", "formant synthesis, soft voice"),
    Voice("david", "espeak-ng", "en-us+david", "en", "Klatt's synthesis, low voice"),
    Voice("kauko", "espeak-ng", "en-us+kaukovalta", "en", "formant synthesis, hoarse voice"),
    Voice("rob", "espeak-ng", "en-us+rob", "en", "formant synthesis, deep voice"),
    Voice("robot", "espeak-ng", "en-us+UniRobot", "en", "formant synthesis, robot"),
    Voice("shelby", "espeak-ng", "en-us+shelby", "en", "formant synthesis, high voice"),
    Voice("alba", "flite", "slt", "en", "US English woman", enrolled=False),
    Voice("belinda", "espeak-ng", "en-us+belinda", "en", "formant synthesis, clear voice", enrolled=False),
    Voice("nikolai", "festival", "msu_ru_nsh_clunits", "ru", "Russian man", enrolled=False),
)


def synthesise(voice: Voice, text: str, out: Path) -> None:
    """One sentence as the synthesiser says it, in a WAV file at its own rate. Raises CalledProcessError."""
    if voice.program == "flite":
        command = ["flite", "-voice", voice.voice, "-t", text, "-o", str(out)]
    elif voice.program == "espeak-ng":
        command = ["espeak-ng", "-v", voice.voice, "-s", "150", "-w", str(out), text]
    else:
        # Festival reads the sentence in the voice's own character set.
        encoding = {"ru": "utf-8", "en": "ascii"}.get(voice.language, "iso-8859-15")
        script = out.with_suffix(".txt")
        script.write_text(text, encoding=encoding)
        command = ["text2wave", "-eval", f"(voice_{voice.voice})", "-o", str(out), str(script)]
    subprocess.run(command, check=True, capture_output=True)


def speech_of(path: Path) -> Float32Array:
    """float32 [n] at 16 kHz with an RMS of -23 dBFS, and a faint noise floor as any recording has."""
    from voicevault.audio import decode

    samples = decode(path).samples.astype(np.float64)
    samples *= 10 ** (-23 / 20) / np.sqrt(np.mean(samples**2))
    noise = np.random.default_rng(len(samples)).normal(0.0, 10 ** (-70 / 20), len(samples))
    return np.clip(samples + noise, -1.0, 1.0).astype(np.float32)


def make(folder: Path) -> None:
    """All voices and all sentences, into `folder`."""
    import soundfile

    rows = ["path\tspeaker\tname\ttags\tlanguage"]
    with tempfile.TemporaryDirectory() as scratch:
        for voice in VOICES:
            for number, text in enumerate(SENTENCES[voice.language], start=1):
                wav = Path(scratch) / f"{voice.speaker}-{number}.wav"
                synthesise(voice, text, wav)
                target = folder / voice.speaker / f"{number}.opus"
                target.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(target, speech_of(wav), SAMPLE_RATE, format="OGG", subtype="OPUS")
                if voice.enrolled and number in ENROLLED_SENTENCES:
                    path = os.path.relpath(target, folder.parent)
                    rows.append("\t".join([path, voice.speaker, voice.about, voice.program, voice.language]))
    (folder.parent / "enroll.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m voicevault.demo.make_voices FOLDER")
    make(Path(sys.argv[1]))
