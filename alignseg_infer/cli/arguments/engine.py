"""The arguments of commands that build TensorRT engines."""

import argparse
import re
from pathlib import Path

from alignseg_infer.arrays import InputShape
from alignseg_infer.cli.arguments.inference import choices_of
from alignseg_infer.errors import OptionError
from alignseg_infer.trt.builder.options import (
    MAX_OPTIMIZATION_LEVEL,
    MEBIBYTE,
    BuildOptions,
    HardwareCompatibility,
)
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Runtime
from alignseg_infer.trt.plugin_library import BUILT_LIBRARY, LIBRARY_VARIABLE


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """What `build_options_from` reads."""
    group = parser.add_argument_group("the engine")
    group.add_argument(
        "--runtime",
        choices=choices_of(Runtime),
        default=Runtime.TENSORRT.value,
        help="tensorrt builds on the GPU that will run the engine; tensorrt-rtx, for consumer "
        "GPUs, builds anywhere (default: tensorrt)",
    )
    _add_shape_arguments(group)
    group.add_argument(
        "--workspace",
        type=int,
        metavar="MIB",
        help="GPU memory an algorithm may use (default: all there is)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        metavar=f"0-{MAX_OPTIMIZATION_LEVEL}",
        help="0 builds soonest, 5 searches longest (default: TensorRT's, 3)",
    )
    group.add_argument(
        "--tf32",
        action="store_true",
        help="let float32 convolutions round to 10 bits of mantissa, for speed",
    )
    _add_target_arguments(group)
    _add_plugin_arguments(group)


def _add_shape_arguments(group: argparse._ArgumentGroup) -> None:
    for name, what in (("min", "smallest"), ("max", "largest")):
        group.add_argument(
            f"--{name}",
            type=input_shape,
            metavar="NxHxW",
            help=f"{what} images x height x width it takes (default: that of --opt)",
        )
    group.add_argument(
        "--opt",
        type=input_shape,
        metavar="NxHxW",
        help="images x height x width it is fastest at, such as 1x512x1024; can be left out for a "
        "model of fixed size and batch",
    )


def _add_target_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="measurements that later builds use again; tensorrt only",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later versions of TensorRT run it too, slower; tensorrt only",
    )
    group.add_argument(
        "--hardware-compatibility",
        choices=choices_of(HardwareCompatibility),
        default=HardwareCompatibility.NONE.value,
        help="other GPUs that are to run it; tensorrt only (default: none)",
    )
    group.add_argument(
        "--compute-capability",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="GPUs it is for, such as 8.9 12.0; tensorrt-rtx only (default: 8.0 and later)",
    )


def _add_plugin_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--plugin",
        type=Path,
        metavar="LIBRARY",
        help="library of TensorRT plugins, for a model exported with --sampler plugin (default: "
        f"${LIBRARY_VARIABLE}, else plugins/build/{BUILT_LIBRARY.name} of a checkout)",
    )
    group.add_argument(
        "--embed-plugin",
        action="store_true",
        help="put that library into the engine, which then needs no such file where it runs; with "
        "--version-compatible",
    )


def input_shape(text: str) -> InputShape:
    """``1x512x1024`` as images, height, width."""
    if not re.fullmatch(r"\d+x\d+x\d+", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is not IMAGESxHEIGHTxWIDTH: 1x512x1024")
    return InputShape(*map(int, text.lower().split("x")))


def build_options_from(arguments: argparse.Namespace) -> BuildOptions:
    """What the arguments of `add_engine_arguments` say.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """
    mebibytes = arguments.workspace
    return BuildOptions(
        runtime=Runtime(arguments.runtime),
        profile=_profile_from(arguments),
        workspace=None if mebibytes is None else mebibytes * MEBIBYTE,
        timing_cache=arguments.timing_cache,
        version_compatible=arguments.version_compatible,
        hardware_compatibility=HardwareCompatibility(arguments.hardware_compatibility),
        compute_capabilities=tuple(arguments.compute_capability),
        optimization_level=arguments.optimization_level,
        tf32=arguments.tf32,
        plugin=arguments.plugin,
        embed_plugin=arguments.embed_plugin,
    )


def _profile_from(arguments: argparse.Namespace) -> Profile | None:
    best = arguments.opt
    if best is None:
        if arguments.min or arguments.max:
            raise OptionError(
                "--min or --max without --opt",
                "also the input shape it is to be fastest at",
                f"--opt {arguments.max or arguments.min}",
            )
        return None
    return Profile(arguments.min or best, best, arguments.max or best)
