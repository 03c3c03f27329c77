"""A flag for every setting, on every command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting on the command line; its value is checked by `Settings`, as the environment's is.

    Attributes:
        setting: Field of `voicevault.settings.Settings`.
        common: Whether the help of every command shows it.
    """

    setting: str
    metavar: str
    help: str
    common: bool = False

    @property
    def option(self) -> str:
        return "--" + self.setting.replace("_", "-")

    @property
    def variable(self) -> str:
        return "VOICEVAULT_" + self.setting.upper()


FLAGS = (
    Flag("home", "FOLDER", "Data folder: database, index, models.", common=True),
    Flag(
        "database_url",
        "URL",
        "sqlite:///PATH or postgresql://...; else a file in the data folder.",
        common=True,
    ),
    Flag("model", "MODEL", "'default', a folder in HOME/models, or a path.", common=True),
    Flag("device", "DEVICE", "Where the model runs: cpu, cuda, cuda:1."),
    Flag(
        "precision",
        "PRECISION",
        "fp32, int8 (CPU, where the model has it) or bf16 (GPU); else the model's choice.",
    ),
    Flag("threads", "N", "Most threads of one embedding."),
    Flag("min_enroll_speech", "SECONDS", "Net speech that an enrollment needs."),
    Flag("min_probe_speech", "SECONDS", "Net speech that a probe needs."),
    Flag("max_bytes", "N", "Largest recording."),
    Flag("max_seconds", "SECONDS", "Longest recording."),
    Flag("max_channels", "N", "Most channels of a recording."),
    Flag(
        "approximate_recall",
        "SHARE",
        "Search a million speakers and more approximately, with at least this recall@1; else exactly.",
    ),
    Flag("workers", "N", "Decoding processes of an import."),
    Flag("lock_timeout", "SECONDS", "How long to wait for another writer."),
    Flag("host", "ADDRESS", "Where the server listens."),
    Flag("port", "PORT", "Where the server listens; 0 takes a free port."),
    Flag("allowed_hosts", "NAMES", "Further host names that the server answers to, with commas between."),
    Flag("concurrency", "N", "Inferences at a time in the server."),
    Flag("queue", "N", "Requests that may wait for one."),
)
"""In the order of `Settings`; a test holds the two together."""
