"""Arguments of the command that builds TensorRT engines."""

import argparse

from alignseg_infer.cli.arguments.values import choices_of, input_shape
from alignseg_infer.files.reading import user_path
from alignseg_infer.trt.builder.options import (
    MAX_OPTIMIZATION_LEVEL,
    BuildOptions,
    HardwareCompatibility,
    profile_from,
)
from alignseg_infer.trt.flavours import RTX_DEFAULT_TEXT, Flavour
from alignseg_infer.trt.plugin_library import BUILT_LIBRARY, LIBRARY_VARIABLE


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `build_options_from` reads."""
    group = parser.add_argument_group("engine options")
    add_flavour(
        group,
        "TensorRT to build with: tensorrt builds on the GPU that will run the engine; "
        "tensorrt-rtx, for consumer GPUs, builds on any machine (default: tensorrt)",
    )
    add_shape_arguments(group, "the model's size and batch if both are fixed")
    group.add_argument(
        "--workspace",
        type=int,
        metavar="MIB",
        help="GPU memory, in MiB, that one algorithm may use (default: all)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        metavar=f"0-{MAX_OPTIMIZATION_LEVEL}",
        help="how long to search for fast algorithms: 0 builds fastest, 5 searches longest "
        "(default: 3, which is TensorRT's)",
    )
    group.add_argument(
        "--tf32",
        action="store_true",
        help="let float32 convolutions round to 10 bits of mantissa (TF32), which is faster",
    )
    _add_target_arguments(group)
    _add_plugin_arguments(group)


def add_flavour(group: argparse._ActionsContainer, text: str) -> None:
    """Define ``--flavour``."""
    group.add_argument(
        "--flavour", choices=choices_of(Flavour), default=Flavour.TENSORRT.value, help=text
    )


def add_plugin(group: argparse._ActionsContainer) -> None:
    """Define ``--plugin``."""
    group.add_argument(
        "--plugin",
        type=user_path,
        metavar="LIBRARY",
        help="library of TensorRT plugins, for a model with the sampler plugin (default: the path "
        f"in ${LIBRARY_VARIABLE}, else plugins/build/{BUILT_LIBRARY.name} in a checkout)",
    )


def add_shape_arguments(group: argparse._ActionsContainer, default: str) -> None:
    """Define ``--min-shape``, ``--opt-shape`` and ``--max-shape``.

    Args:
        group: The parser to add them to, or a group of it.
        default: What is taken if none of them is given, for the help.
    """
    for name, what in (("min", "smallest"), ("max", "largest")):
        group.add_argument(
            f"--{name}-shape",
            type=input_shape,
            metavar="NxHxW",
            help=f"{what} input that the engine accepts, as images x height x width (default: the "
            "value of --opt-shape)",
        )
    group.add_argument(
        "--opt-shape",
        type=input_shape,
        metavar="NxHxW",
        help="input that the engine is fastest for, as images x height x width, such as "
        f"1x512x1024 (default: {default})",
    )


def _add_target_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timing-cache",
        type=user_path,
        metavar="FILE",
        help="file of time measurements that later builds use again; tensorrt only",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later versions of TensorRT run the engine too, which makes it slower; tensorrt "
        "only",
    )
    group.add_argument(
        "--hardware-compatibility",
        choices=choices_of(HardwareCompatibility),
        default=HardwareCompatibility.NONE.value,
        help="other GPUs that the engine must run on; tensorrt only (default: none)",
    )
    group.add_argument(
        "--compute-capabilities",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="compute capabilities of the GPUs to build for, such as 8.9 12.0; tensorrt-rtx only "
        f"(default: {RTX_DEFAULT_TEXT})",
    )


def _add_plugin_arguments(group: argparse._ArgumentGroup) -> None:
    add_plugin(group)
    group.add_argument(
        "--embed-plugin",
        action="store_true",
        help="store the plugin library in the engine, so that the engine runs without the "
        "library's file; needs --version-compatible",
    )


def build_options_from(arguments: argparse.Namespace) -> BuildOptions:
    """Return the build options that the arguments of `add_engine_arguments` ask for.

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
