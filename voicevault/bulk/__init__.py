"""Bulk enrollment: decode -> detect speech -> embed -> commit, all stages at once.

`stages` has the work of each stage as a plain function over batches of plain records, `run` the flow between
them on one machine, `decoder` and `worker` the two ends of a decoding process.
"""

from __future__ import annotations

from voicevault.bulk.results import refuse_overwriting
from voicevault.bulk.run import enroll_many

__all__ = ["enroll_many", "refuse_overwriting"]
