"""From a checkpoint to a coloured mask on the CPU: weights, ONNX file, picture, result.

    python examples/quickstart.py [PICTURE]

The weights are those of the demo model, which was trained on drawn streets. Without a PICTURE, a
street is drawn.
"""

import argparse
import sys
from pathlib import Path

from alignseg_infer import AlignSegError, Predictor, export_onnx
from alignseg_infer.cli.streams import discard_stdout
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.pixels.images import load_image

OUTPUT = Path("quickstart-output")


def main() -> int:
    """Run the five steps and print what each of them made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, help="default: a drawn street")
    picture = parser.parse_args().picture or draw_street()
    image = load_image(picture)  # before the export, which takes half a minute
    print(f"1. picture     {picture}")

    report = export_onnx("demo", OUTPUT / "alignseg.onnx")
    network = report.spec.network
    print(f"2. checkpoint  {network.backbone}, sampling convention {network.convention}")

    worst = max(row.error for row in report.comparisons)
    print(f"3. ONNX        {report.path} (differs from PyTorch by {worst:.1e}, relative L2)")

    result = Predictor(report.path)(image)
    print(f"4. result      {result}")

    for path in result.save(OUTPUT / picture.stem):
        print(f"5. written     {path}")
    return 0


def draw_street() -> Path:
    """Draw a street that the demo model was not trained on, and return its path."""
    (files,) = write_streets(OUTPUT, FIRST_HELD_OUT, 1)
    return files.image


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        discard_stdout()
        status = 1
    except AlignSegError as error:
        sys.exit(f"error: {error}")
    sys.exit(status)
