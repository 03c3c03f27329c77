"""OpenVINO without its telemetry.

``import openvino`` by itself sends an event over the network and leaves a client's id in the home folder, unless the package
that does so cannot be imported. So everything takes OpenVINO from this module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["openvino", "opset13"]

_REPORTER = "openvino_telemetry"


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """Imports of a package fail inside, as if it were not installed; one that is loaded already stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


# Its thread pool looks at the machine through hwloc, which prints where /sys is missing, as in small containers.
os.environ.setdefault("HWLOC_HIDE_ERRORS", "2")
with _missing(_REPORTER):
    import openvino  # noqa: TID251
    from openvino import opset13  # noqa: TID251
