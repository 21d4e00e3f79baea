"""``alignseg inspect``: describes a model file, and what was assumed about it."""

import argparse
import json
import shlex
from collections import Counter
from pathlib import Path

from alignseg_infer.backends import CHECKPOINT_SUFFIXES
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.cli.arguments.checkpoint import (
    add_checkpoint_arguments,
    checkpoint_options_from,
    require_no_checkpoint_arguments,
)
from alignseg_infer.cli.contract import contract_lines
from alignseg_infer.cli.describe import describe_engine, verification_lines
from alignseg_infer.cli.streams import print_message, print_report
from alignseg_infer.cli.translation import translate
from alignseg_infer.demo import model_path
from alignseg_infer.errors import INSTALL_ONNX, ModelFileError, OptionError
from alignseg_infer.files.reading import require_file, sha256_of, user_path
from alignseg_infer.models.identify import require_named_as_it_is
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.packages import require_packages
from alignseg_infer.spec.model import (
    AGREEMENT_KEY,
    SPEC_KEY,
    VERIFICATION_KEY,
    ExportSpec,
    ModelSpec,
    OutputKind,
    Precision,
)
from alignseg_infer.spec.verification import Verification
from alignseg_infer.text import first_few
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, read_facts
from alignseg_infer.trt.runtime.checks import require_unchanged_plan

HELP = "Describe a checkpoint, an exported model or an engine, and show what was assumed."
EXAMPLE = "Example: alignseg inspect CS_scenes.pth"


_ABOUT_INT8 = (
    "  in ONNX Runtime without this package: use version 1.30 or newer, and the session's entry\n"
    "    session.disable_quant_qdq=1, which this package sets for exact products"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's arguments."""
    parser.add_argument(
        "model",
        type=user_path,
        help="model to describe: a checkpoint (.pth, .pt, .safetensors), an .onnx file, an engine "
        "(.engine, .plan, .trt), or demo",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print only JSON: the spec, or all facts of an engine",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="for an engine, also list the layers that TensorRT built; needs a GPU that can run it",
    )
    add_checkpoint_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what the file is."""
    model = model_path(arguments.model)
    suffix = model.suffix.lower()
    if suffix in (".onnx", *ENGINE_SUFFIXES):
        require_named_as_it_is(model)
    if suffix in ENGINE_SUFFIXES:
        require_no_checkpoint_arguments(arguments, model)
        return _print_engine(model, arguments.json, arguments.layers)
    if arguments.layers:
        raise OptionError(
            f"--layers was given with {model}, which is not an engine",
            f"an engine: {', '.join(ENGINE_SUFFIXES)}",
            "leave --layers out",
        )
    if suffix == ".onnx":
        require_no_checkpoint_arguments(arguments, model)
        spec, details = _inspect_onnx(model)
    else:
        if suffix not in CHECKPOINT_SUFFIXES:
            known = f"an engine ({', '.join(ENGINE_SUFFIXES)}), a checkpoint "
            known += f"({', '.join(CHECKPOINT_SUFFIXES)}), demo, or an .onnx file"
            require_file(model, known, ModelFileError)
        spec, details = _inspect_checkpoint(model, arguments)
    if arguments.json:
        print_report(json.dumps(json.loads(spec.to_json()), indent=2))
    else:
        print_message(f"{model}: {describe_spec(spec)}\n{details}")
    return 0


def describe_spec(spec: ModelSpec) -> str:
    """Return the spec as lines for people."""
    network, prepared = spec.network, spec.input
    lines = [
        f"AlignSeg, {network.backbone}, {network.num_classes} classes",
        f"  widths: backbone x{network.width:g}, decoder {network.decoder_channels} channels",
        f"  sampling convention: {network.convention}",
        f"  normalisation layers: {network.norm}",
        f"  input: {prepared.channel_order}, 0 to 255, minus {prepared.mean}, divided by "
        f"{prepared.std}",
        f"  classes: {spec.classes.dataset} ({first_few(list(spec.classes.names), 4)})",
    ]
    if remap := spec.remap:
        unsure = f", as below a confidence of {remap.threshold:g}" if remap.threshold else ""
        lines.append(
            f"  remapped from {len(remap.names)} ({first_few(list(remap.names), 4)}); "
            f"{remap.void} stands for no class{unsure}"
        )
    if spec.source:
        source = spec.source
        lines.append(f"  checkpoint: {source.name}, sha256 {source.sha256}{source.choices}")
    if export := spec.export:
        rewrites = "with" if export.rewrites else "without"
        target = f" for {export.target}" if export.target else ""
        lines.append(
            f"  export: {export.precision}{target}, {export.output}, {_shape_text(export)}, opset "
            f"{export.opset}, sampler {export.sampler}, upsampling {export.upsampling}, "
            f"{rewrites} rewrites, by {export.exporter}"
        )
    return "\n".join(lines)


def _shape_text(export: ExportSpec) -> str:
    size = "any size" if export.size is None else f"{export.size[0]}x{export.size[1]}"
    return f"{size}, " + ("any batch" if export.batch is None else f"batch {export.batch}")


def _print_engine(path: Path, as_json: bool, with_layers: bool) -> int:
    """Print the facts, check that they belong to this plan file, then ask TensorRT for layers."""
    facts = read_facts(path)
    if as_json:
        print_report(facts.to_json())
    else:
        contract = "\n".join(contract_lines(facts.fixed_spec))
        said = f"{describe_spec(facts.spec)}\n{contract}\n{describe_engine(path, facts)}"
        print_message(f"{path}: {said}")
    require_unchanged_plan(path, facts, sha256_of(path))
    if with_layers:
        from alignseg_infer.trt.runtime.backend import TensorRTBackend

        with TensorRTBackend(path) as backend:
            rows = [f"    {row.count} {row.kind} {row.data_type}" for row in backend.layers()]
        title = "  layers that TensorRT built, by kind and first output's type:"
        print_message("\n".join([title, *rows]))
    return 0


def _inspect_onnx(path: Path) -> tuple[ModelSpec, str]:
    spec, metadata, has_offsets, lines = _read_onnx_facts(path)
    told = ModelSpec.from_json(metadata[SPEC_KEY])
    if told.export and told.export != spec.export:
        was = f"{told.export.precision}, {_shape_text(told.export)}"
        lines.append(f"  changed since the export: it was exported as {was}")
    offsets = "yes" if has_offsets else "no (alignseg export-onnx --with-offsets)"
    measure = "relative L2 error"
    if spec.export is not None and spec.export.output is OutputKind.LABELS:
        measure += " of logits, or share of labels that differ"
    names = [field.output_name for field in OffsetField] if has_offsets else []
    lines += [*contract_lines(spec, names), f"  returns offset fields: {offsets}"]
    lines += [f"  difference between the float32 export and PyTorch ({measure}):"]
    try:
        rows = json.loads(metadata[VERIFICATION_KEY])
        lines += [f"    {r['batch']}x3x{r['height']}x{r['width']}: {r['error']:.2e}" for r in rows]
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        lines.append("    not recorded in the file")
    export = spec.export
    # What is for CPUs is fused there, as by ONNX Runtime without this package.
    if export is not None and export.precision is Precision.INT8 and not export.has_cpu_integers:
        lines.append(_ABOUT_INT8)
    if told.export and spec.export and told.export.precision is not spec.export.precision:
        advice = f"alignseg verify {shlex.quote(str(path))} --against FLOAT32.onnx"
        lines.append(f"  not compared since it is {spec.export.precision}: {advice}")
    elif AGREEMENT_KEY in metadata:
        lines += verification_lines(Verification.from_json(metadata[AGREEMENT_KEY]))
    return spec, "\n".join(lines)


def _read_onnx_facts(path: Path) -> tuple[ModelSpec, dict[str, str], bool, list[str]]:
    """Return the spec, metadata, whether offsets are returned, and a line about plugins if any."""
    if needs_plugins(path):  # ONNX Runtime refuses such files
        require_packages(("onnx",), INSTALL_ONNX)
        from alignseg_infer.spec.onnx_facts import read_onnx_facts

        facts = read_onnx_facts(path)
        nodes = ", ".join(f"{count} {name}" for name, count in Counter(facts.plugins).items())
        line = f"  needs TensorRT plugins: {nodes}"
        return facts.spec, facts.metadata, len(facts.outputs) > 1, [line]
    from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path)
    return backend.spec, backend.metadata, backend.has_offsets, []


def _inspect_checkpoint(path: Path, arguments: argparse.Namespace) -> tuple[ModelSpec, str]:
    from alignseg_infer.backends import torch_backend  # noqa: F401  raises if torch is missing
    from alignseg_infer.models.checkpoint import describe_assumptions, load_checkpoint

    checkpoint = load_checkpoint(path, checkpoint_options_from(arguments))
    parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
    scales = [
        tensor
        for key, tensor in checkpoint.state.items()
        if tensor.ndim == 1 and key.endswith(".weight")
    ]
    negative = sum(int((tensor < 0).sum()) for tensor in scales)
    lines = [
        f"  {len(checkpoint.state)} tensors, {parameters / 1e6:.1f} M values",
        f"  {negative} of {sum(t.numel() for t in scales)} normalisation weights are negative; "
        "InPlaceABN uses their absolute value",
        "  " + translate(describe_assumptions(checkpoint), arguments.parser),
    ]
    return checkpoint.spec, "\n".join(lines)
