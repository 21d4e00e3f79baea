"""Says which layers of a network compute in which type, and why some are FP32."""

from collections import Counter

from alignseg_infer.trt.builder.layers import FLOAT, HALF, INT8, Layer, Network

SAMPLERS = "by design, where features are sampled: many small layers that compute coordinates"
ENDS = "image and result, which stay FP32"
SHOWN_KINDS = 3


def describe_layers(network: Network) -> str:
    """Lines for people: convolutions per type, shares of all layers, and reasons for FP32.

    Left out are constants, and arithmetic with shapes and indices.
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
    """Layers that compute with values of the image, in floating point or INT8."""
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
    """Why layers of a graph of lower precision are FP32: reason and count, most first.

    FP32 layers that feed each other belong together; a reason is found for all of them at once.
    """
    counts: Counter[str] = Counter()
    unexplained: Counter[str] = Counter()
    for group in _connected(
        [layer for layer in working_layers(network) if layer.data_type == FLOAT]
    ):
        if reason := _reason(group, network):
            counts[reason] += len(group)
        else:
            unexplained.update(layer.kind for layer in group)
    if unexplained:
        kinds = ", ".join(kind for kind, _ in unexplained.most_common(SHOWN_KINDS))
        counts[f"other ({kinds})"] = unexplained.total()
    return dict(counts.most_common())


def _reason(group: list[Layer], network: Network) -> str | None:
    if any(layer.kind == "GRID_SAMPLE" or layer.operation == "FLOOR" for layer in group):
        return SAMPLERS
    ends = {*network.inputs, *network.outputs}
    if any(ends.intersection((*layer.inputs, *layer.outputs)) for layer in group):
        return ENDS
    return None


def _connected(layers: list[Layer]) -> list[list[Layer]]:
    """Groups of layers that read what others of the group make."""
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
