"""ModelSpec to JSON and back, and the JSON that is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from alignseg_infer.datasets.class_tables import CITYSCAPES, VOC
from alignseg_infer.errors import AlignSegError, SpecError
from alignseg_infer.spec.from_json import MAX_FACTS
from alignseg_infer.spec.model import (
    MAX_BATCH,
    MAX_CHANNELS,
    MAX_CLASS_NAME,
    MAX_CLASSES,
    MAX_INPUT_SIDE,
    MAX_WIDTH,
    ChannelOrder,
    ClassSpec,
    ExportSpec,
    InputSpec,
    ModelSpec,
    NetworkSpec,
    NormKind,
    OutputKind,
    Sampler,
    SamplingConvention,
    SourceSpec,
    Upsampling,
)
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.engine_file import EngineFacts

PLAIN = ModelSpec(network=NetworkSpec(), input=InputSpec(), classes=CITYSCAPES)
EXPORT = ExportSpec(
    output=OutputKind.LABELS,
    sampler=Sampler.GATHER,
    opset=17,
    rewrites=False,
    size=(512, 1024),
    batch=4,
    exporter="torch 2.11",
    upsampling=Upsampling.RESIZE,
)
FULL = ModelSpec(
    network=NetworkSpec(
        backbone="resnet18",
        width=0.25,
        decoder_channels=32,
        num_classes=21,
        convention=SamplingConvention.STANDARD,
        norm=NormKind.BATCH_NORM,
    ),
    input=InputSpec(channel_order=ChannelOrder.RGB, mean=(1.5, 2.5, 3.5), std=(4.0, 5.0, 6.0)),
    classes=VOC,
    source=SourceSpec(name="größe.pth", sha256="0" * 64),
    export=EXPORT,
)
ANY_SIZE = replace(FULL, export=replace(EXPORT, size=None, batch=None))
GONE = object()


def changed(where: str, value: object) -> str:
    """Return the JSON of FULL with another `value` at the dotted path `where`, or without it."""
    facts = json.loads(FULL.to_json())
    *parents, name = where.split(".")
    owner = facts
    for parent in parents:
        owner = owner[parent]
    if value is GONE:
        del owner[name]
    else:
        owner[name] = value
    return json.dumps(facts)


@pytest.mark.parametrize("spec", [PLAIN, FULL, ANY_SIZE], ids=["plain", "full", "any size"])
def test_round_trip(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_types_survive() -> None:
    spec = ModelSpec.from_json(FULL.to_json())
    assert spec.export is not None
    assert spec.network.convention is SamplingConvention.STANDARD
    assert spec.network.norm is NormKind.BATCH_NORM
    assert spec.input.channel_order is ChannelOrder.RGB
    assert spec.export.output is OutputKind.LABELS
    assert spec.export.sampler is Sampler.GATHER
    assert isinstance(spec.classes.colors[0], tuple)
    assert hash(spec) == hash(FULL)


def test_files_from_before_a_choice_was_recorded_are_read() -> None:
    spec = ModelSpec.from_json(FULL.to_json())
    facts = json.loads(spec.to_json())
    for name in ("weights", "threshold"):
        assert facts["source"].pop(name) is None
    assert ModelSpec.from_json(json.dumps(facts)) == FULL


def test_files_from_before_targets_are_read() -> None:
    facts = json.loads(FULL.to_json())
    assert facts["export"].pop("target") is None
    assert ModelSpec.from_json(json.dumps(facts)) == FULL


def test_json_is_plain() -> None:
    facts = json.loads(FULL.to_json())
    assert facts["version"] == 3
    assert facts["network"]["convention"] == "standard"
    assert facts["export"]["size"] == [512, 1024]
    assert facts["classes"]["colors"][1] == [128, 0, 0]
    assert json.loads(PLAIN.to_json())["export"] is None


def test_whole_number_for_a_float() -> None:
    """Other writers of JSON drop the .0."""
    spec = ModelSpec.from_json(changed("network.width", 1))
    assert type(spec.network.width) is float


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("version", 4),
        ("version", "1"),
        ("version", GONE),
        ("color", "red"),
        ("network.depth", 18),
        ("export.precision", "fp8"),
        ("export.upsampling", "bilinear"),
        ("export.target", "gpu"),
        ("export.upsampling", "matrices"),  # EXPORT is without the rewrites, which bring them
        ("export.upsampling", GONE),
        ("export.speed", 1),
        ("source", GONE),
        ("input.std", GONE),
        ("network.norm", GONE),
        ("network", None),
        ("network", []),
        ("classes", "voc"),
        ("network.backbone", 18),
        ("network.width", "1.0"),
        ("network.width", None),
        ("network.num_classes", 21.0),
        ("export.opset", True),
        ("export.rewrites", 0),
        ("network.convention", "release-2022"),
        ("input.channel_order", "BGR"),
        ("export.output", ["labels"]),
        ("input.mean", 104.0),
        ("input.mean", [1.0, 2.0]),
        ("input.mean", [1.0, 2.0, 3.0, 4.0]),
        ("input.mean", ["1", "2", "3"]),
        ("export.size", [512]),
        ("export.size", [512, 1024, 3]),
        ("export.size", [512.5, 1024]),
        ("classes.colors", [[0, 0]] * 21),
        ("classes.names", "x" * 21),
        ("network.num_classes", 19),
        ("classes.names", ["road"] * 20),
    ],
)
def test_refused(where: str, value: object) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(changed(where, value))


@pytest.mark.parametrize("text", ["", "{", "null", "1", '"spec"', "[]", "{}", '{"version": 1}'])
def test_no_spec_at_all(text: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


@pytest.mark.parametrize(
    "facts",
    [
        {"network": NetworkSpec(num_classes=20)},
        {"classes": VOC},
        {"classes": replace(CITYSCAPES, names=CITYSCAPES.names[1:])},
        {"classes": replace(CITYSCAPES, colors=CITYSCAPES.colors[1:])},
        {"classes": ClassSpec(dataset="none", names=(), colors=())},
    ],
    ids=["network", "table", "names", "colors", "empty"],
)
def test_class_counts_must_agree(facts: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        replace(PLAIN, **facts)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InputSpec(std=(1.0, 0.0, 1.0)),
        lambda: InputSpec(std=(1.0, float("nan"), 1.0)),
        lambda: InputSpec(mean=(1.0, float("inf"), 1.0)),
        lambda: NetworkSpec(width=0.0),
        lambda: NetworkSpec(width=float("nan")),
        lambda: NetworkSpec(width=MAX_WIDTH * 1.01),
        lambda: NetworkSpec(num_classes=0),
        lambda: NetworkSpec(num_classes=MAX_CLASSES + 1),
        lambda: NetworkSpec(decoder_channels=0),
        lambda: NetworkSpec(decoder_channels=MAX_CHANNELS + 1),
        lambda: ClassSpec(dataset="own", names=("a",), colors=((0, 0, 256),)),
        lambda: replace(EXPORT, size=(0, 0)),
        lambda: replace(EXPORT, batch=0),
        lambda: replace(EXPORT, batch=MAX_BATCH + 1),
        lambda: replace(EXPORT, opset=20),
        lambda: ModelSpec(
            network=NetworkSpec(num_classes=2),
            input=InputSpec(),
            classes=ClassSpec(dataset="own", names=("a", "a"), colors=((0, 0, 0), (1, 1, 1))),
        ),
    ],
)
def test_facts_that_make_no_sense(make: Callable[[], object]) -> None:
    with pytest.raises(SpecError):
        make()


@pytest.mark.parametrize("version", ["true", "3.0", "0", '"3"', "1", "2", "4"])
def test_only_the_present_version_is_read(version: str) -> None:
    with pytest.raises(SpecError, match="export the model again"):
        ModelSpec.from_json(PLAIN.to_json().replace('"version": 3', f'"version": {version}'))


def test_other_channel_order_turns_mean_and_std_round() -> None:
    bgr = InputSpec(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    rgb = bgr.reversed()
    assert rgb == InputSpec(
        channel_order=ChannelOrder.RGB, mean=(3.0, 2.0, 1.0), std=(6.0, 5.0, 4.0)
    )
    assert rgb.reversed() == bgr


def test_two_classes_of_one_name_are_refused() -> None:
    """Their pixels would be counted as one class, or lost."""
    colors = ((0, 0, 0), (1, 2, 3), (9, 9, 9))
    with pytest.raises(SpecError, match="several classes are called 'other'"):
        ClassSpec(dataset="own", names=("other", "road", "other"), colors=colors)
    assert ClassSpec(dataset="own", names=("other", "road", "Other"), colors=colors).names


@pytest.mark.parametrize(
    "name", ["", "road\ud800", "\x1b[31mroad", "two\nlines", "nul\0", "x" * (MAX_CLASS_NAME + 1)]
)
def test_names_of_classes_are_printable(name: str) -> None:
    with pytest.raises(SpecError, match="a class is called"):
        ClassSpec(dataset="own", names=("road", name), colors=((0, 0, 0), (1, 2, 3)))


def test_names_of_classes_in_any_script() -> None:
    names = ("straße", "道路", "дорога", "x" * MAX_CLASS_NAME)
    assert ClassSpec(dataset="own", names=names, colors=((0, 0, 0),) * 4).names == names


def test_the_largest_network_has_facts() -> None:
    colors = ((255, 255, 255),) * MAX_CLASSES
    names = tuple(f"class {label} of an unusually large table" for label in range(MAX_CLASSES))
    largest = ModelSpec(
        network=NetworkSpec(
            width=MAX_WIDTH, decoder_channels=MAX_CHANNELS, num_classes=MAX_CLASSES
        ),
        input=InputSpec(),
        classes=ClassSpec(dataset="own", names=names, colors=colors),
        export=replace(EXPORT, batch=MAX_BATCH, size=(MAX_INPUT_SIDE, MAX_INPUT_SIDE)),
    )
    assert ModelSpec.from_json(largest.to_json()) == largest


@pytest.mark.parametrize("facts", [ModelSpec, Verification, EngineFacts])
def test_endless_and_nested_facts_are_not_read(facts: Any) -> None:
    """Ten million classes took minutes and gigabytes, before their number was refused."""
    for text, why in [(f"[{'1,' * (MAX_FACTS // 2)}1]", "characters"), ("[" * 90_000, "nested")]:
        with pytest.raises(AlignSegError, match=why):
            facts.from_json(text)
