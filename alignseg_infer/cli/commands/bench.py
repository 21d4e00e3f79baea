"""``alignseg bench``: measures how long models take."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Size
from alignseg_infer.backend import Backend
from alignseg_infer.backends import ENGINE_RUNNERS, OnnxRunner
from alignseg_infer.backends.opening import PredictorOptions, open_model
from alignseg_infer.backends.processor import usable_cores
from alignseg_infer.backends.tuned import TUNED
from alignseg_infer.benchmark import BenchmarkReport, Variant, benchmark
from alignseg_infer.benchmark.footprint import measure_footprint
from alignseg_infer.cli.arguments.inference import (
    AT_RUNTIME_HELP,
    add_inference_arguments,
    names_of,
    predictor_options,
    split_runtime,
)
from alignseg_infer.cli.arguments.values import IMAGES_HELP, add_destination, given_place
from alignseg_infer.cli.reports import write_report
from alignseg_infer.cli.streams import print_message, print_report
from alignseg_infer.cli.termination import EXIT_INTERRUPTED
from alignseg_infer.datasets.copies import FilePath
from alignseg_infer.datasets.image_sets import ImageFiles, choose_images
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.errors import INSTALL_BENCH, OptionError
from alignseg_infer.files.reading import user_path
from alignseg_infer.files.writing import require_writable_folder, temporary_folder
from alignseg_infer.inference.averaging import Mode
from alignseg_infer.packages import require_packages
from alignseg_infer.pixels.images import write_image
from alignseg_infer.predictor import Predictor

HELP = "Time one or more models: stages, percentiles, images per second and memory."
EXAMPLE = "Example: alignseg bench demo alignseg.onnx --size 512x1024 --batch 1 4 -o out/"
MACHINE_PACKAGES = ("psutil", "cpuinfo", "pynvml")  # the facts about the machine
DEFAULT_ROUNDS, DEFAULT_SECONDS = 100, 120.0
DEFAULT_IMAGES = 4
DEFAULT_SIZE = (512, 1024)
NO_LIMIT = 1_000_000  # rounds
AVERAGING = ("mode", "tile", "overlap", "scales", "flip")
RESULTS = ("benchmark.json", "benchmark.md", "benchmark.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        type=user_path,
        help=f"models to time: .onnx files, engines, checkpoints, or demo{AT_RUNTIME_HELP}; the "
        "others are compared with the first",
    )
    parser.add_argument(
        "--images",
        type=given_place,
        metavar="SOURCE",
        help=f"images to time with: {IMAGES_HELP}; video frames are first written as PNG (default: "
        "drawn streets of the network's size, as PNG)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help="maximum number of images to time with, spread evenly over the source (default: "
        f"{DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="number of times to run each model and batch (default: as many as fit in --seconds; "
        f"without --seconds, {DEFAULT_ROUNDS} or as many as fit in {DEFAULT_SECONDS:.0f} seconds)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="stop after S seconds, but run at least five rounds",
    )
    add_destination(
        parser,
        f"folder to write {', '.join(RESULTS[:2])} and {RESULTS[2]} into",
        required=False,
    )
    add_inference_arguments(parser, several_batches=True)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write it with its chart if there is a destination."""
    names = names_of(arguments.models)
    _require_distinct(arguments.batch)
    if arguments.max_images < 1:
        raise OptionError(
            f"--max-images {arguments.max_images}",
            "1 image or more",
            f"--max-images {DEFAULT_IMAGES}",
        )
    require_packages(MACHINE_PACKAGES, INSTALL_BENCH)
    if arguments.destination:
        require_packages(("matplotlib",), INSTALL_BENCH)  # now, not after minutes of measuring
        require_writable_folder(arguments.destination)
    with temporary_folder() as folder:
        report = _measure(arguments, names, folder)
    if report.partial:
        print_message(f"interrupted after {report.rounds} rounds", sys.stderr)
    if report.machine.busy:
        print_message(f"warning: other work was running: {report.machine.busy}", sys.stderr)
    print_report(report.to_markdown())
    if arguments.destination:
        from alignseg_infer.benchmark.picture import benchmark_figure
        from alignseg_infer.drawing.figures import pixels_of

        picture = pixels_of(benchmark_figure(report))
        contents = (report.to_json() + "\n", report.to_markdown(), picture)
        write_report(arguments.destination, dict(zip(RESULTS, contents, strict=True)))
    return EXIT_INTERRUPTED if report.partial else 0


def _require_distinct(batches: Sequence[int]) -> None:
    if len(set(batches)) < len(batches):
        raise OptionError(
            f"--batch {' '.join(map(str, batches))}", "each batch size once", "--batch 1 4"
        )


def _measure(
    arguments: argparse.Namespace, names: dict[str, Path], folder: Path
) -> BenchmarkReport:
    """Time all models and batches; then measure the memory of each in a process of its own."""
    from alignseg_infer.cli.progress import progress_bar

    variants = [
        variant for name, path in names.items() for variant in _open_variants(arguments, name, path)
    ]
    what, images = _prepare_images(arguments, variants[0].predictor, folder)
    rounds, seconds = _choose_limits(arguments)
    print_message(f"warming up, then timing on {what}", sys.stderr)
    with progress_bar("rounds") as progress:
        report = benchmark(
            variants,
            images,
            rounds=rounds,
            seconds=seconds,
            settings={"images": what, **_list_settings(arguments)},
            progress=progress,
        )
    del variants  # frees the models' memory for the processes that follow
    return report if report.partial else _add_footprints(report, arguments, names, images)


def _choose_limits(arguments: argparse.Namespace) -> tuple[int, float | None]:
    """Return the limits of rounds and seconds; if only one was given, the other does not count."""
    if arguments.rounds is None and arguments.seconds is None:
        return DEFAULT_ROUNDS, DEFAULT_SECONDS
    return NO_LIMIT if arguments.rounds is None else arguments.rounds, arguments.seconds


def _open_variants(arguments: argparse.Namespace, name: str, path: Path) -> Iterator[Variant]:
    """Yield a variant for each batch.

    The model is loaded once; but each batch has its own engine, which is the fastest for it, and
    OpenVINO compiles a model for one image, if all have one size.
    """
    path, named = split_runtime(path)
    options = predictor_options(arguments) | named
    if options["runtime"] == TUNED:
        yield Variant(name, Predictor(path, **_one_call(options)))
        return
    backend: Backend | None = None
    for batch in arguments.batch:
        options["batch"] = batch
        if backend is None or options["runtime"] in (*ENGINE_RUNNERS, OnnxRunner.OPENVINO):
            backend = open_model(path, PredictorOptions(**options))
        predictor = Predictor(backend, **options)
        if predictor.batch != batch:
            raise OptionError(
                f"--batch {batch} was given, but {name} was exported for {predictor.batch}",
                f"--batch {predictor.batch}, or a model that takes any batch",
                f"--batch {predictor.batch}; or export it again without --batch",
            )
        yield Variant(name, predictor)


def _one_call(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of one `Predictor`; what was tuned says the batch, unless one was given.

    Raises:
        OptionError: Several batches were given, or one that may not be what was tuned.
    """
    (batch, *others) = options["batch"]
    if batch != 1 or others:
        raise OptionError(
            f"--batch {' '.join(map(str, options['batch']))} was given with the runtime {TUNED}",
            "the batch that was tuned",
            "leave out --batch",
        )
    return {**options, "batch": 1}


def _prepare_images(
    arguments: argparse.Namespace, first: Predictor, folder: Path
) -> tuple[str, list[FilePath]]:
    """Find or write the images to measure with, and return their description and paths.

    Args:
        arguments: The parsed arguments.
        first: The predictor whose size drawn streets get if no size was given.
        folder: Where to write images that are not files yet.
    """
    from alignseg_infer.demo.streets.folder import write_streets

    if arguments.images:
        return _choose_files(arguments.images, arguments.max_images, arguments.max_pixels, folder)
    size, count = _choose_street_size(arguments.size, first), arguments.max_images
    written = write_streets(folder, FIRST_HELD_OUT, count, size)
    streets: list[FilePath] = [files.image for files in written]
    return f"{count} drawn streets of {size[0]}x{size[1]}, PNG", streets


def _choose_files(
    source: str, max_images: int, max_pixels: int, folder: Path
) -> tuple[str, list[FilePath]]:
    images = choose_images(source, max_images, max_pixels)
    if isinstance(images, ImageFiles):
        return images.name, list(images.paths)
    paths = [folder / f"{number}.png" for number in images.frames]
    for path, pixels in zip(paths, images.read(), strict=True):
        write_image(path, pixels)
    return f"{images.name}, as PNG", [*paths]


def _choose_street_size(size: str | int | Size | None, first: Predictor) -> Size:
    if isinstance(size, tuple):
        return size
    if isinstance(size, int):
        return size // 2, size
    export = first.spec.export
    return export.size if export and export.size else DEFAULT_SIZE


def _list_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings that the figures depend on, besides models, batches and images."""
    options = predictor_options(arguments)
    averaged = options["mode"] != Mode.WHOLE or options["flip"] or options["scales"] != [1.0]
    shown = ["size", "device", "on_device", *(AVERAGING if averaged else ())]
    threads = arguments.threads or f"chosen by the runtime ({usable_cores()} cores)"
    values = {key: options[key] for key in shown}
    sizes = {key: value for key, value in values.items() if isinstance(value, tuple)}
    texts = {key: f"{height}x{width}" for key, (height, width) in sizes.items()}
    return {"threads": threads, **values, **texts}


def _add_footprints(
    report: BenchmarkReport,
    arguments: argparse.Namespace,
    names: dict[str, Path],
    images: Sequence[FilePath],
) -> BenchmarkReport:
    """Add the memory that each model and batch takes; after Ctrl-C, add what was measured."""
    try:
        for index, measured in enumerate(report.measured):
            print_message(f"measuring the memory of {report.label(measured)}", sys.stderr)
            path, named = split_runtime(names[measured.name])
            options = predictor_options(arguments) | named
            chosen = [images[number % len(images)] for number in range(measured.batch)]
            batch = 1 if options["runtime"] == TUNED else measured.batch
            found = measure_footprint(path, chosen, {**options, "batch": batch})
            report = report.with_footprint(index, found)
    except KeyboardInterrupt:
        return replace(report, partial=True)
    return report
