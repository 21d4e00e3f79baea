"""Starts the command ``alignseg``. It is installed as ``alignseg_command``, outside of the package.

The package cannot be imported without OpenCV. Then this says so, without a traceback.
"""

import sys


def main() -> int:
    """Run ``alignseg`` and return its exit code."""
    try:
        from alignseg_infer.cli import main as run
    except Exception as error:
        if type(error).__module__ != "alignseg_infer.errors":  # which cannot be imported either
            raise
        sys.stderr.write(f"error: {error}\n")
        return 1
    return run()
