"""What ``alignseg inspect`` prints about a TensorRT engine. Needs neither TensorRT nor a GPU."""

from pathlib import Path

from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.engine_file import EngineFacts, Profile
from alignseg_infer.trt.runtime.checks import wanted_gpu

_SHOWN_LAYERS = ("CONVOLUTION", "GRID_SAMPLE", "PLUGIN_V3")


def describe_engine(path: Path, facts: EngineFacts) -> str:
    """Return what the engine is, besides its spec, as lines for people."""
    lines = [
        f"  engine: {facts.flavour} {facts.tensorrt_version}{_portable_text(facts)}, "
        f"{path.stat().st_size / 1e6:.1f} MB, built by {facts.builder}",
        f"  runs on: {_gpu_text(facts)}",
        f"  inputs: {_profile_text(facts.profile)} (batch x height x width)",
        f"  layers of the parsed network: {_layers_text(facts)}",
    ]
    if facts.spec.export:
        tf32 = ", TF32 allowed" if facts.tf32 else ""
        lines.insert(1, f"  precision: {facts.spec.export.precision}{tf32}")
    if facts.plugins:
        place = ", which are in the engine" if facts.plugins_embedded else ""
        lines.append(f"  needs the plugins: {', '.join(facts.plugins)}{place}")
    lines.append(f"  built from: an .onnx file with sha256 {facts.source_sha256}")
    if facts.verification:
        lines += verification_lines(facts.verification)
    else:
        lines.append(f"  built, not verified: alignseg verify {path} --against FLOAT32.onnx")
    return "\n".join(lines)


def _portable_text(facts: EngineFacts) -> str:
    return " or newer (version compatible)" if facts.version_compatible else ""


def _gpu_text(facts: EngineFacts) -> str:
    if facts.compute_capabilities:
        return f"compute capability {', '.join(facts.compute_capabilities)}"
    if facts.gpu is None:
        return wanted_gpu(facts).text
    built = f"{facts.gpu.name} (compute capability {facts.gpu.compute_capability})"
    if facts.hardware_compatibility == "none":
        return built
    return f"{built}, built for {facts.hardware_compatibility}"


def _profile_text(profile: Profile) -> str:
    if profile.minimum == profile.maximum:
        return str(profile.maximum)
    return f"{profile.minimum} to {profile.maximum}, fastest at {profile.optimum}"


def _layers_text(facts: EngineFacts) -> str:
    if not facts.layers:
        return "not known, since another tool built it"
    shown = [layer for layer in facts.layers if layer.kind in _SHOWN_LAYERS]
    counts = [f"{layer.count} {layer.kind} {layer.data_type}" for layer in shown]
    others = sum(layer.count for layer in facts.layers) - sum(layer.count for layer in shown)
    return ", ".join([*counts, f"{others} others (--json lists all)"])


def verification_lines(verification: Verification) -> list[str]:
    """Return how the model compares with its reference, as lines for people."""
    lines = [
        f"  verified against {verification.reference} with {verification.images} on "
        f"{verification.backend}, required agreement {verification.required_agreement:.2%}:"
    ]
    for row in verification.rows:
        error = "" if row.logits_error is None else f", logits error {row.logits_error:.1e}"
        lines.append(
            f"    {row.shape}: {row.agreement:.3%} of the pixels have the same label (worst of "
            f"{row.images} images {row.worst_agreement:.3%}){error}"
        )
    if not verification.passed:
        lines.append("    this is too few: the model was rejected")
    if verification.miou_drop is not None:
        lines.append(f"    mean IoU is lower by {verification.miou_drop:.2f} percentage points")
    return lines
