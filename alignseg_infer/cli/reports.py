"""Writing what a command found."""

import sys
from collections.abc import Mapping
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.files import write_atomically
from alignseg_infer.pixels.images import write_image


def write_report(folder: Path, contents: Mapping[str, str | Image]) -> None:
    """Writes files into `folder`, each atomically, and then prints their paths on stderr.

    Args:
        folder: Exists.
        contents: By file name: text, or a (H, W, 3) uint8 BGR picture for ``.png``.

    Raises:
        OutputError: One cannot be written.
    """
    for name, content in contents.items():
        if isinstance(content, str):
            with write_atomically(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        else:
            write_image(folder / name, content)
    for name in contents:
        print(folder / name, file=sys.stderr)
