"""``alignseg verify``: does a model label images as the float32 one does that it was made from?"""

import argparse
from dataclasses import replace
from pathlib import Path

from alignseg_infer.cli.arguments.inference import choices_of, fixed_size
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.demo import model_path
from alignseg_infer.errors import OptionError, VerificationError
from alignseg_infer.files import write_atomically
from alignseg_infer.pixels.images import read_image
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, read_facts, sidecar_path

HELP = "Compare a float16 or int8 model, or an engine, with its float32 ONNX file, on images."
EXAMPLE = "Example: alignseg verify alignseg_fp16.engine --against alignseg.onnx --images DIR"
DEFAULT_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the command's arguments."""
    parser.add_argument("model", type=Path, help="an engine or an .onnx file")
    parser.add_argument(
        "--against", type=Path, required=True, help="the float32 .onnx it was made from, or demo"
    )
    add_verification_images(parser, "--images")
    parser.add_argument(
        "--sizes",
        type=fixed_size,
        nargs="+",
        default=[],
        metavar="HxW",
        help="input sizes, for an .onnx that takes any (default: that of the first image, its "
        "longest side at most 1024; engines are run at the corners of their profile)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:N (default: what the model implies)")
    labels = parser.add_argument_group("labelled images, to compare mean IoU too")
    labels.add_argument("--dataset", choices=choices_of(Dataset), help="the layout")
    labels.add_argument("--root", type=Path, help="the dataset's folder")
    labels.add_argument("--split", help="train, val or test (default: val; a folder has none)")


def add_verification_images(parser: argparse.ArgumentParser, name: str) -> None:
    """The option `name` for images to compare labels on, and how many of them."""
    parser.add_argument(
        name,
        type=Path,
        metavar="SOURCE",
        help="images to compare labels on: a folder, a .txt list, or a video (default: those of "
        "--dataset or --calibration if given, else drawn streets, which show gross errors only)",
    )
    parser.add_argument(
        f"{name}-limit",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"only so many of them, spread evenly (default: {DEFAULT_IMAGES})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compares, prints the table, and notes in an engine's facts that it was verified."""
    from alignseg_infer.cli.progress import progress_bar
    from alignseg_infer.datasets.image_sets import choose_images, spread_evenly
    from alignseg_infer.export.verification.agreement import format_rows
    from alignseg_infer.export.verification.verify import verify

    images = data = None
    if arguments.images:
        images = list(choose_images(arguments.images, arguments.images_limit).read())
    if arguments.root or arguments.dataset or arguments.split:
        data = find_labelled_images(*_dataset_from(arguments), arguments.split)
        if images is None:
            pairs = [data.pairs[i] for i in spread_evenly(len(data.pairs), arguments.images_limit)]
            images = [read_image(pair.image) for pair in pairs]
    model = model_path(arguments.model)
    with progress_bar("images") as progress:
        try:
            found = verify(
                model,
                arguments.against,
                images,
                device=arguments.device,
                sizes=arguments.sizes,
                data=data,
                progress=progress,
            )
        except VerificationError:
            _note(model, None)
            raise
    print(f"{model}, {found.backend}, against {found.reference}, on {found.images}")
    print(format_rows(found.rows))
    if found.miou_drop is not None and data is not None:
        change = round(-found.miou_drop, 2) + 0.0  # no "-0.00"
        print(f"  mean IoU changes by {change:+.2f} percent points, {len(data.pairs)} images")
    print(f"passed: at least {found.required_agreement:.1%} alike in each row")
    _note(model, found)
    return 0


def _dataset_from(arguments: argparse.Namespace) -> tuple[Dataset, Path]:
    if arguments.dataset is None or arguments.root is None:
        raise OptionError(
            "of --dataset, --root and --split not all that is needed was given",
            "the layout of labelled images and their folder",
            "--dataset folder --root FOLDER",
        )
    return Dataset(arguments.dataset), arguments.root


def _note(engine: Path, found: Verification | None) -> None:
    """Notes in the facts of an engine how it was verified; None: it was not."""
    if engine.suffix.lower() not in ENGINE_SUFFIXES:
        return
    facts = replace(read_facts(engine), verification=found)
    with write_atomically(sidecar_path(engine)) as temporary:
        temporary.write_text(facts.to_json(), encoding="utf-8")
