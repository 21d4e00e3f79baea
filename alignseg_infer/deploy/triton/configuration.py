"""The text of ``config.pbtxt``, in which a model repository describes each of its models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignseg_infer.arrays import Size

WARM_UP_SIZE = (256, 512)  # of models that take any size
QUEUE_DELAY = 2000  # microseconds that a request may wait for others, so that they form a batch


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: Its name.
        kind: Its number format, such as ``UINT8``; ``STRING`` for bytes.
        shape: Its shape for one image, with -1 for any length.
        optional: Whether a request may leave it out.
        ragged: Whether a batch may hold requests of different shapes.
        labels: File with the names of classes; empty for none.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    optional: bool = False
    ragged: bool = False
    labels: str = ""

    def text(self, batched: bool) -> str:
        """Return its message; models that take no batches have an axis of length 1 instead."""
        shape = self.shape if batched else (1, *self.shape)
        more = " optional: true" if self.optional else ""
        more += " allow_ragged_batch: true" if self.ragged and batched else ""
        more += f' label_filename: "{self.labels}"' if self.labels else ""
        return f'  {{ name: "{self.name}" data_type: TYPE_{self.kind} dims: {list(shape)}{more} }}'


@dataclass(frozen=True, kw_only=True)
class Runner:
    """What runs a model, and how.

    Attributes:
        backend: ``backend: "python"``, or another field that names it.
        batch: The most images in one call; 0 for a model that takes no batches.
        instances: How many copies of the model run at once.
        gpu: Whether they run on GPUs.
    """

    backend: str
    batch: int
    instances: int
    gpu: bool = False


def configuration_of(
    name: str,
    runner: Runner,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    warm_up: str = "",
) -> str:
    """Return the configuration of a model that a backend runs.

    Args:
        name: The model's name, which is that of its folder.
        runner: What runs it.
        inputs: What it takes.
        outputs: What it returns.
        warm_up: What `warm_up_of` returned; empty for none.
    """
    kind = "KIND_GPU" if runner.gpu else "KIND_CPU"
    parts = [_head(name, runner.backend, runner.batch, inputs, outputs)]
    parts.append(f"instance_group [ {{ count: {runner.instances} kind: {kind} }} ]\n")
    if runner.batch:
        parts.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}\n")
    return "".join([*parts, warm_up])


def warm_up_of(tensor: Tensor, size: Size | None, batch: int) -> str:
    """Return requests of zeros, of one image and of a full batch, which the server sends first.

    Args:
        tensor: The input, with two axes of the image's height and width.
        size: Its (height, width) if it is fixed.
        batch: The most images in one call; 0 for a model that takes no batches.
    """
    sides = iter(size or WARM_UP_SIZE)
    shape = [next(sides) if length == -1 else length for length in tensor.shape]
    shape = shape if batch else [1, *shape]
    return "".join(
        f'model_warmup [ {{ name: "{count or 1} images" batch_size: {count} inputs {{ key: '
        f'"{tensor.name}" value: {{ data_type: TYPE_{tensor.kind} dims: {shape} zero_data: true '
        "} } } ]\n"
        for count in sorted({min(batch, 1), batch})
    )


def parameter(key: str, value: str) -> str:
    """Return a parameter, which clients read with the configuration."""
    quoted = json.dumps(value)  # of ASCII only, whose escapes are those of the format too
    return f'parameters {{ key: "{key}" value: {{ string_value: {quoted} }} }}\n'


def ensemble_of(
    name: str,
    batch: int,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    steps: Sequence[tuple[str, Mapping[str, str], Mapping[str, str]]],
) -> str:
    """Return the configuration of a model that hands tensors from model to model.

    Args:
        name: The model's name.
        batch: The most images in one request; 0 for a model that takes no batches.
        inputs: What it takes.
        outputs: What it returns.
        steps: The name of each model; and for its inputs, and then for its outputs, their names
            in that model and in this one.
    """
    parts = []
    for model, taken, returned in steps:
        maps = [f'      input_map {{ key: "{one}" value: "{own}" }}' for one, own in taken.items()]
        maps += [
            f'      output_map {{ key: "{one}" value: "{own}" }}' for one, own in returned.items()
        ]
        body = "\n".join([f'      model_name: "{model}"', "      model_version: -1", *maps])
        parts.append(f"    {{\n{body}\n    }}")
    scheduling = "ensemble_scheduling {\n  step [\n" + ",\n".join(parts) + "\n  ]\n}\n"
    return _head(name, 'platform: "ensemble"', batch, inputs, outputs) + scheduling


def _head(
    name: str, backend: str, batch: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> str:
    lines = [f'name: "{name}"', backend, f"max_batch_size: {batch}"]
    for field, tensors in (("input", inputs), ("output", outputs)):
        lines.append(f"{field} [")
        lines.append(",\n".join(tensor.text(batch > 0) for tensor in tensors))
        lines.append("]")
    return "\n".join(lines) + "\n"
