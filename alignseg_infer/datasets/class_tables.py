"""Class tables: names and colours of the datasets that AlignSeg is trained on.

A label is a position in the table. Each entry is ``name=rrggbb``.

* Cityscapes: the 19 training classes in trainId order, with the colours of cityscapesScripts
  ``helpers/labels.py``.
* ADE20K: the 150 classes of the MIT Scene Parsing Benchmark in the order of
  ``objectInfo150.csv``, with the colours of its ``color150.mat``. Label 0 is the benchmark's class
  1, *wall*; its class 0 means "not annotated".
* VOC: background and the 20 classes of Pascal VOC 2012 in the order of its development kit, with
  the colours of its ``VOClabelcolormap``.
"""

import json
import operator
from pathlib import Path

from alignseg_infer.errors import OptionError
from alignseg_infer.files.reading import read_text, require_file, user_path
from alignseg_infer.spec.model import ClassSpec
from alignseg_infer.text import near_words

_CITYSCAPES = """
road=804080; sidewalk=f423e8; building=464646; wall=66669c; fence=be9999; pole=999999;
traffic light=faaa1e; traffic sign=dcdc00; vegetation=6b8e23; terrain=98fb98; sky=4682b4;
person=dc143c; rider=ff0000; car=00008e; truck=000046; bus=003c64; train=005064;
motorcycle=0000e6; bicycle=770b20
"""

_ADE20K = """
wall=787878; building=b47878; sky=06e6e6; floor=503232; tree=04c803; ceiling=787850;
road=8c8c8c; bed=cc05ff; windowpane=e6e6e6; grass=04fa07; cabinet=e005ff; sidewalk=ebff07;
person=96053d; earth=787846; door=08ff33; table=ff0652; mountain=8fff8c; plant=ccff04;
curtain=ff3307; chair=cc4603; car=0066c8; water=3de6fa; painting=ff0633; sofa=0b66ff;
shelf=ff0747; house=ff09e0; sea=0907e6; mirror=dcdcdc; rug=ff095c; field=7009ff;
armchair=08ffd6; seat=07ffe0; fence=ffb806; desk=0aff47; rock=ff290a; wardrobe=07ffff;
lamp=e0ff08; bathtub=6608ff; railing=ff3d06; cushion=ffc207; base=ff7a08; box=00ff14;
column=ff0829; signboard=ff0599; chest of drawers=0633ff; counter=eb0cff; sand=a09614;
sink=00a3ff; skyscraper=8c8c8c; fireplace=fa0a0f; refrigerator=14ff00; grandstand=1fff00;
path=ff1f00; stairs=ffe000; runway=99ff00; case=0000ff; pool table=ff4700; pillow=00ebff;
screen door=00adff; stairway=1f00ff; river=0bc8c8; bridge=ff5200; bookcase=00fff5; blind=003dff;
coffee table=00ff70; toilet=00ff85; flower=ff0000; book=ffa300; hill=ff6600; bench=c2ff00;
countertop=008fff; stove=33ff00; palm=0052ff; kitchen island=00ff29; computer=00ffad;
swivel chair=0a00ff; boat=adff00; bar=00ff99; arcade machine=ff5c00; hovel=ff00ff; bus=ff00f5;
towel=ff0066; light=ffad00; truck=ff0014; tower=ffb8b8; chandelier=001fff; awning=00ff3d;
streetlight=0047ff; booth=ff00cc; television receiver=00ffc2; airplane=00ff52;
dirt track=000aff; apparel=0070ff; pole=3300ff; land=00c2ff; bannister=007aff; escalator=00ffa3;
ottoman=ff9900; bottle=00ff0a; buffet=ff7000; poster=8fff00; stage=5200ff; van=a3ff00;
ship=ffeb00; fountain=08b8aa; conveyer belt=8500ff; canopy=00ff5c; washer=b800ff;
plaything=ff001f; swimming pool=00b8ff; stool=00d6ff; barrel=ff0070; basket=5cff00;
waterfall=00e0ff; tent=70e0ff; bag=46b8a0; minibike=a300ff; cradle=9900ff; oven=47ff00;
ball=ff00a3; food=ffcc00; step=ff008f; tank=00ffeb; trade name=85ff00; microwave=ff00eb;
pot=f500ff; animal=ff007a; bicycle=fff500; lake=0abed4; dishwasher=d6ff00; screen=00ccff;
blanket=1400ff; sculpture=ffff00; hood=0099ff; sconce=0029ff; vase=00ffcc; traffic light=2900ff;
tray=29ff00; ashcan=ad00ff; fan=00f5ff; pier=4700ff; crt screen=7a00ff; plate=00ffb8;
monitor=005cff; bulletin board=b8ff00; shower=0085ff; radiator=ffd600; glass=19c2c2;
clock=66ff00; flag=5c00ff
"""

_VOC = """
background=000000; aeroplane=800000; bicycle=008000; bird=808000; boat=000080; bottle=800080;
bus=008080; car=808080; cat=400000; chair=c00000; cow=408000; diningtable=c08000; dog=400080;
horse=c00080; motorbike=408080; person=c08080; pottedplant=004000; sheep=804000; sofa=00c000;
train=80c000; tvmonitor=004080
"""


def _parse_table(dataset: str, table: str) -> ClassSpec:
    entries = [entry.strip().split("=") for entry in table.replace("\n", " ").split(";")]
    colors = [bytes.fromhex(color) for _, color in entries]
    return ClassSpec(
        dataset=dataset,
        names=tuple(name for name, _ in entries),
        colors=tuple((color[0], color[1], color[2]) for color in colors),
    )


CITYSCAPES = _parse_table("cityscapes", _CITYSCAPES)
ADE20K = _parse_table("ade20k", _ADE20K)
VOC = _parse_table("voc", _VOC)

CLASS_TABLES = {table.dataset: table for table in (CITYSCAPES, ADE20K, VOC)}


def class_table(dataset: str) -> ClassSpec:
    """Return the table with this name: ``cityscapes``, ``ade20k`` or ``voc``.

    Raises:
        OptionError: There is no such table.
    """
    if dataset not in CLASS_TABLES:
        raise OptionError(
            f"there is no class table {dataset!r}",
            f"one of {', '.join(CLASS_TABLES)}",
            f"classes={(near_words(dataset, CLASS_TABLES) or [CITYSCAPES.dataset])[0]!r}",
        )
    return CLASS_TABLES[dataset]


def class_table_named(classes: str | Path | ClassSpec) -> ClassSpec:
    """Return the table that a user means: a known dataset's, that of a ``.json``, or itself.

    Raises:
        OptionError: There is no such table, or the file cannot be used.
    """
    if isinstance(classes, ClassSpec):
        return classes
    path = user_path(classes)
    return (
        class_table_from_file(path) if path.suffix.lower() == ".json" else class_table(str(classes))
    )


def label_of(classes: ClassSpec, which: str | int) -> int:
    """Return the label of a class.

    Args:
        classes: The table.
        which: The class's name, or the label itself.

    Raises:
        OptionError: The table has no such class.
    """
    if isinstance(which, str):
        if which in classes.names:
            return classes.names.index(which)
        near = near_words(which, classes.names, most=3)
        fix = f"did you mean {' or '.join(map(repr, near))}?" if near else "print(result.classes)"
        raise _no_class_error(classes, repr(which), f"a name such as {classes.names[0]!r}", fix)
    try:
        label = operator.index(which)
    except TypeError as error:
        fix = f"{classes.names[0]!r}, or its label 0"
        raise _no_class_error(classes, repr(which), "a name or an integer", fix) from error
    last = len(classes.names) - 1
    if not 0 <= label <= last:
        raise _no_class_error(classes, str(label), f"labels 0 to {last}", f"{last}")
    return label


def _no_class_error(classes: ClassSpec, which: str, expected: str, fix: str) -> OptionError:
    problem = f"the class table {classes.dataset!r} has no class {which}"
    return OptionError(problem, expected, fix)


def class_table_from_file(path: Path) -> ClassSpec:
    """Read a table from JSON: ``{"names": ["road", ...], "colors": [[128, 64, 128], ...]}``, RGB.

    Raises:
        OptionError: The file is missing or is not a class table.
    """
    require_file(path, "a class table", OptionError)
    try:
        table = json.loads(read_text(path))
        names, colors = table["names"], table["colors"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _table_error(path, repr(error)) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _table_error(path, "its names are not a list of strings")
    if not isinstance(colors, list) or not all(is_color(color) for color in colors):
        raise _table_error(path, "its colours are not lists of three integers in 0..255")
    if len(names) != len(colors):
        raise _table_error(path, f"it has {len(names)} names and {len(colors)} colours")
    return ClassSpec(
        dataset=path.stem, names=tuple(names), colors=tuple((r, g, b) for r, g, b in colors)
    )


def is_color(value: object) -> bool:
    """Return whether a JSON value is (red, green, blue), each 0..255."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )


def _table_error(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"{path} is not a class table: {reason}",
        'JSON like {"names": ["road", "car"], "colors": [[128, 64, 128], [0, 0, 142]]}',
        "write one name and one red-green-blue colour per class",
    )


def class_table_for(num_classes: int) -> ClassSpec:
    """Return the known table with `num_classes` entries, or else numbered classes.

    Numbered classes have distinct colours.
    """
    for table in CLASS_TABLES.values():
        if len(table.names) == num_classes:
            return table
    return ClassSpec(
        dataset="unnamed",
        names=tuple(f"class {label}" for label in range(num_classes)),
        colors=tuple(voc_color(label) for label in range(num_classes)),
    )


def voc_color(label: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of `label` in Pascal VOC's ``VOClabelcolormap``.

    Bits 0, 1 and 2 of the label become bit 7 of red, green and blue. Bits 3, 4 and 5 become bit 6,
    and so on: 1 is (128, 0, 0), 2 is (0, 128, 0), 3 is (128, 128, 0).
    """
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= ((label >> bit) & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


IGNORED = 255  # true label of pixels that are not evaluated
