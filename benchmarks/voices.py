"""What is measured with: recordings and the model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.benchmark import Options
from voicevault.errors import RequestError
from voicevault.types import ManifestRow


def model_path(options: Options) -> Path:
    """The folder of the model that the options name. Raises ModelNotFoundError."""
    from voicevault.bootstrap import model_folder
    from voicevault.settings import Settings

    return model_folder(Settings(model=options.model))


def bundled_voices() -> Path:
    """The folder of the synthetic voices that come with the package."""
    import voicevault

    return Path(voicevault.__file__).parent / "demo" / "voices"


def find_recordings(options: Options) -> list[ManifestRow]:
    """The recordings that the options name, or the bundled ones, in a stable order.

    Raises:
        ManifestError: The folder or manifest cannot be read.
        RequestError: There are no bundled voices.
    """
    from voicevault.manifest import read_corpus

    source = options.voices if options.voices is not None else bundled_voices()
    if not source.exists():
        raise RequestError(
            f"There are no recordings at {source}. Give some: --voices FOLDER (speaker/recording) or MANIFEST.",
            path=str(source),
        )
    return read_corpus(source)
