"""A report on the types that the layers of a network compute in, and why some are FP32."""

from collections import Counter

from alignseg_infer.trt.builder.layers import FLOAT, HALF, INT8, Layer, Network

SAMPLERS = "sampling of features, FP32 by design: many small layers that compute coordinates"
ENDS = "image and result, which stay FP32"
SHOWN_KINDS = 3


def describe_layers(network: Network) -> str:
    """Describe a network in a few lines: convolutions per type, shares, and reasons for FP32.

    The report leaves out constants, and arithmetic with shapes and indices.
    """
    working = working_layers(network)
    counts = Counter(layer.data_type for layer in working)
    convolutions = Counter(layer.data_type for layer in working if layer.kind == "CONVOLUTION")
    shares = ", ".join(
        f"{counts[kind] / max(len(working), 1):.0%} {name}"
        for kind, name in ((INT8, "INT8"), (HALF, "FP16"), (FLOAT, "FP32"))
        if counts[kind]
    )
    done = ", ".join(
        f"{convolutions[kind]} {name}"
        for kind, name in ((INT8, "INT8"), (HALF, "FP16"), (FLOAT, "FP32"))
        if convolutions[kind]
    )
    lines = [f"  convolutions: {done}", f"  {len(working)} layers that compute: {shares}"]
    if counts[HALF]:
        lines += [f"    {count} FP32: {reason}" for reason, count in float_reasons(network).items()]
    return "\n".join(lines)


def working_layers(network: Network) -> list[Layer]:
    """Return the layers that compute with values of the image, in floating point or INT8."""
    known = set(network.inputs)
    working = []
    for layer in network.layers:
        if layer.kind != "SHAPE" and known.intersection(layer.inputs):
            known.update(layer.outputs)
            computes = layer.data_type in {FLOAT, HALF} or layer.kind == "CONVOLUTION"
            if computes:
                working.append(layer)
    return working


def float_reasons(network: Network) -> dict[str, int]:
    """Return why layers are FP32 in a graph of lower precision: reasons and counts, most first.

    FP32 layers that feed each other form a group, and the whole group has one reason.
    """
    counts: Counter[str] = Counter()
    unexplained: Counter[str] = Counter()
    for group in _group_connected(
        [layer for layer in working_layers(network) if layer.data_type == FLOAT]
    ):
        if reason := _find_reason(group, network):
            counts[reason] += len(group)
        else:
            unexplained.update(layer.kind for layer in group)
    if unexplained:
        kinds = ", ".join(kind for kind, _ in unexplained.most_common(SHOWN_KINDS))
        counts[f"other ({kinds})"] = unexplained.total()
    return dict(counts.most_common())


def _find_reason(group: list[Layer], network: Network) -> str | None:
    if any(layer.kind == "GRID_SAMPLE" or layer.operation == "FLOOR" for layer in group):
        return SAMPLERS
    ends = {*network.inputs, *network.outputs}
    if any(ends.intersection((*layer.inputs, *layer.outputs)) for layer in group):
        return ENDS
    return None


def _group_connected(layers: list[Layer]) -> list[list[Layer]]:
    """Group layers that read each other's outputs."""
    group_of: dict[str, list[Layer]] = {}
    for layer in layers:
        group = [layer]
        for name in layer.inputs:
            other = group_of.get(name, group)
            if other is not group:
                other.extend(group)
                for member in group:
                    group_of.update(dict.fromkeys(member.outputs, other))
                group = other
        group_of.update(dict.fromkeys(layer.outputs, group))
    return list({id(group): group for group in group_of.values()}.values())
