"""The arguments of commands that build TensorRT engines."""

import argparse
from pathlib import Path

from alignseg_infer.cli.arguments.values import choices_of, input_shape
from alignseg_infer.trt.builder.options import (
    MAX_OPTIMIZATION_LEVEL,
    BuildOptions,
    HardwareCompatibility,
    profile_from,
)
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.plugin_library import BUILT_LIBRARY, LIBRARY_VARIABLE


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """What `build_options_from` reads."""
    group = parser.add_argument_group("the engine")
    group.add_argument(
        "--flavour",
        choices=choices_of(Flavour),
        default=Flavour.TENSORRT.value,
        help="tensorrt builds on the GPU that will run the engine; tensorrt-rtx, for consumer "
        "GPUs, builds anywhere (default: tensorrt)",
    )
    _add_shape_arguments(group)
    group.add_argument(
        "--workspace",
        type=int,
        metavar="MIB",
        help="MiB of GPU memory an algorithm may use (default: all there is)",
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
            f"--{name}-shape",
            type=input_shape,
            metavar="NxHxW",
            help=f"{what} images x height x width it takes (default: that of --opt-shape)",
        )
    group.add_argument(
        "--opt-shape",
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
        "--compute-capabilities",
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
        help="library of TensorRT plugins, for a model with --sampler plugin (default: "
        f"${LIBRARY_VARIABLE}, else plugins/build/{BUILT_LIBRARY.name} of a checkout)",
    )
    group.add_argument(
        "--embed-plugin",
        action="store_true",
        help="put that library into the engine, which then needs no such file where it runs; with "
        "--version-compatible",
    )


def build_options_from(arguments: argparse.Namespace) -> BuildOptions:
    """What the arguments of `add_engine_arguments` say.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """
    return BuildOptions(
        flavour=Flavour(arguments.flavour),
        profile=profile_from(arguments.min_shape, arguments.opt_shape, arguments.max_shape),
        workspace=arguments.workspace,
        timing_cache=arguments.timing_cache,
        version_compatible=arguments.version_compatible,
        hardware_compatibility=HardwareCompatibility(arguments.hardware_compatibility),
        compute_capabilities=tuple(arguments.compute_capabilities),
        optimization_level=arguments.optimization_level,
        tf32=arguments.tf32,
        plugin=arguments.plugin,
        embed_plugin=arguments.embed_plugin,
    )
