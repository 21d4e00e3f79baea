"""Builds a TensorRT engine: the same as ``alignseg export-trt``."""

import sys

from alignseg_infer.cli import main_of

if __name__ == "__main__":
    sys.exit(main_of("export-trt"))
