"""ONNX Runtime without its telemetry.

Since 1.29 its Linux and macOS builds report each process and session over the network, and keep a device's id and a database of
events in the home folder, unless this variable is set before it is first used. So everything takes ONNX Runtime from this module.
"""

from __future__ import annotations

import os

__all__ = ["onnxruntime"]

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: TID251
