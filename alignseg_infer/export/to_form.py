"""Gives an ONNX file another form, and compares the two before the new file appears."""

import os
from pathlib import Path

import numpy as np

from alignseg_infer.errors import OptionError
from alignseg_infer.export.graph.forms import put_form
from alignseg_infer.export.graph.onnx_file import load_graph, require_onnx_ending, save_onnx
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.verification.forms import compare_form
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.model import ModelSpec
from alignseg_infer.spec.onnx_facts import OnnxFacts


def onnx_in_form(source: Path, target: Path, options: ExportOptions, facts: OnnxFacts) -> None:
    """Write the model `source`, in any precision, as `target`, in the form that `options` name.

    Args:
        source: An ``.onnx`` of this package that takes float32 images, and returns logits, or
            labels if labels are wanted.
        target: The ``.onnx`` to write.
        options: Their output, output_size, label_type, layout, input, remap, size and batch are
            used.
        facts: The facts of `source`.

    Raises:
        OptionError: `target` does not end in ``.onnx`` or is `source`, or the labels do not fit
            into the type that was asked for.
        ExportError: `source` has another form.
        SizeError: `source` takes another size only.
        ParityError: The two do not return the same; nothing is written.
        OutputError: The file cannot be written.
    """
    require_onnx_ending(target)
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        raise OptionError(
            f"{target} is the model itself",
            "another file, since other forms are made of the plain one",
            f"destination={source.stem}_{options.output}.onnx",
        )
    wanted = options.formed(facts.spec)
    _require_room_for_labels(wanted, options)
    _require_free_shape(source, facts, options)
    model = load_graph(source)
    put_form(model, facts.spec, wanted)
    with write_atomically(target) as temporary:
        save_onnx(model, temporary)
        compare_form(temporary, source)


def _require_room_for_labels(spec: ModelSpec, options: ExportOptions) -> None:
    count = spec.label_count
    if options.label_type is None or np.iinfo(options.label_type.value).max >= count - 1:
        return
    raise OptionError(
        f"label_type={options.label_type.value!r} for labels up to {count - 1}",
        "a type that holds all labels",
        f"label_type={np.dtype(label_dtype(count)).name!r}",
    )


def _require_free_shape(source: Path, facts: OnnxFacts, options: ExportOptions) -> None:
    """Raise OptionError if a size or batch was asked for and `source` has another one."""
    pairs = ("size", options.size, facts.export.size), ("batch", options.batch, facts.export.batch)
    for name, asked, fixed in pairs:
        if asked is not None and fixed not in (None, asked):
            raise OptionError(
                f"{name}={asked} was asked for, but {source} was exported for {fixed}",
                f"{name}={fixed}, or a model that takes any",
                f"{name}={fixed}",
            )
