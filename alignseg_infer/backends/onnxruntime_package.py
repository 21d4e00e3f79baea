"""The only place that imports ONNX Runtime itself, with an error that says what to install.

Its tools for quantisation, which need more packages, are imported where they are used.
"""

from alignseg_infer.packages import ONNXRUNTIME, require_shared

require_shared(ONNXRUNTIME)

import onnxruntime  # noqa: E402 - after the check

__all__ = ["onnxruntime"]
