"""From nothing to a coloured mask on the CPU: checkpoint, ONNX file, picture, result.

    python examples/quickstart.py [PICTURE]

The weights are random, not trained: the picture shows that the whole path works, not what is in
the street.
"""

import argparse
import sys
from pathlib import Path

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit("error: PyTorch is not installed\n  try: pip install torch==2.13.0 '.[export]'")

from alignseg_infer import AlignSegError, ModelSpec, Predictor
from alignseg_infer.datasets import CITYSCAPES
from alignseg_infer.export.to_onnx import export_onnx
from alignseg_infer.images import load_image
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.models.checkpoint import load_checkpoint, save_checkpoint
from alignseg_infer.preprocess import preprocess
from alignseg_infer.spec import InputSpec, NetworkSpec, SamplingConvention
from media import street_frame

OUTPUT = Path("quickstart-output")
INPUT = InputSpec(std=(57.0, 57.0, 58.0))
OFFSET_SCALE = 0.05  # keeps random offsets within a few pixels, as learned ones are


def untrained_model(picture: Path) -> AlignSeg:
    """A small AlignSeg with seeded random weights, whose classes are equally strong on `picture`.

    Without that last step one class would win everywhere and the mask would be one colour.
    """
    torch.manual_seed(0)
    spec = NetworkSpec(
        backbone="resnet18",
        width=0.5,
        decoder_channels=128,
        convention=SamplingConvention.STANDARD,
    )
    model = AlignSeg(spec).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.out_channels == 2:
                module.weight *= OFFSET_SCALE
    tensor = torch.from_numpy(preprocess(load_image(picture), (256, 512), INPUT))
    logits = model(tensor).logits
    deviation, mean = torch.std_mean(logits, dim=(0, 2, 3))
    state = model.state_dict()
    state["head.3.weight"] /= deviation.reshape(-1, 1, 1, 1)
    state["head.3.bias"].sub_(mean).div_(deviation)
    return model


def main() -> int:
    """Runs the five steps and prints what each made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, help="default: a street, fetched by pip")
    picture = parser.parse_args().picture or street_frame(OUTPUT)
    print(f"1. picture     {picture}")

    model = untrained_model(picture)
    spec = ModelSpec(network=model.spec, input=INPUT, classes=CITYSCAPES)
    save_checkpoint(OUTPUT / "untrained.pth", model, spec)
    print(f"2. checkpoint  {OUTPUT / 'untrained.pth'} (random weights, not trained)")

    report = export_onnx(load_checkpoint(OUTPUT / "untrained.pth"), OUTPUT / "untrained.onnx")
    worst = max(row.error for row in report.comparisons)
    print(f"3. ONNX        {report.path} (differs from PyTorch by {worst:.1e}, relative L2)")

    result = Predictor(report.path)(picture)
    print(f"4. result      {result}")

    for path in result.save(OUTPUT / picture.stem):
        print(f"5. written     {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AlignSegError as error:
        sys.exit(f"error: {error}")
