"""Exports a checkpoint to ONNX: the same as ``alignseg export-onnx``."""

import sys

from alignseg_infer.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("export-onnx"))
