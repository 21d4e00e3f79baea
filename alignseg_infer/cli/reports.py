"""Writing the report of a command."""

import sys
from collections.abc import Mapping
from pathlib import Path

from alignseg_infer.arrays import Image
from alignseg_infer.cli.streams import print_message
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.pixels.images import write_image


def write_report(folder: Path, contents: Mapping[str, str | Image]) -> None:
    """Write files into `folder`, each atomically, and then print their paths on stderr.

    Args:
        folder: An existing folder.
        contents: The content for each file name: text, or, for ``.png``, a (H, W, 3) uint8 BGR
            picture.

    Raises:
        OutputError: A file cannot be written.
    """
    for name, content in contents.items():
        if isinstance(content, str):
            with write_atomically(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        else:
            write_image(folder / name, content)
    for name in contents:
        print_message(str(folder / name), sys.stderr)
