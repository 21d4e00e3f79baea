"""Networks with one output channel, which are trained with a sigmoid.

A pixel is foreground where sigmoid(z) > t for its logit z and a threshold t. That is a network of
two classes with the logits [log(t / (1 - t)), z]: the softmax of [0, z] is sigmoid(z), and the
larger logit is the second where z > log(t / (1 - t)). For t = 0.5 the first logit is 0. So one
filter of zeros before the head makes an ordinary network of two classes: everything else, such as
the average over tiles and the export, stays as it is.
"""

import math
from dataclasses import replace

import torch

from alignseg_infer.datasets.class_tables import voc_color
from alignseg_infer.errors import OptionError
from alignseg_infer.models.state_search import State
from alignseg_infer.spec.model import ClassSpec, NetworkSpec

BINARY = "binary"  # name of the table where none is given
DEFAULT_THRESHOLD = 0.5
_BACKGROUND, _FOREGROUND = "background", "foreground"
_LAST = ("head.3", "dsn.3")  # the convolutions that give logits


def as_two_classes(
    state: State, network: NetworkSpec, threshold: float | None
) -> tuple[State, NetworkSpec]:
    """Return weights and shape of the network with two classes; others stay as they are.

    Args:
        state: A state dict that fits `network`, in float32.
        network: The network that the shapes describe.
        threshold: Probability above which a pixel is foreground; None for 0.5.

    Raises:
        OptionError: A threshold was given for a network with several classes.
    """
    if network.num_classes != 1:
        if threshold is not None:
            raise OptionError(
                f"threshold={threshold} was given for a network with {network.num_classes} classes",
                "a network with one class, which was trained with a sigmoid",
                "leave threshold= out",
            )
        return state, network
    chosen = DEFAULT_THRESHOLD if threshold is None else threshold
    first = math.log(chosen) - math.log1p(-chosen)
    state = dict(state)
    for layer in _LAST:
        if f"{layer}.weight" in state:
            weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]  # (1, C, 1, 1), (1,)
            state[f"{layer}.weight"] = torch.cat((torch.zeros_like(weight), weight))
            state[f"{layer}.bias"] = torch.cat((torch.full_like(bias, first), bias))
    return state, replace(network, num_classes=2)


def two_classes(table: ClassSpec | None) -> ClassSpec:
    """Return names and colours of the two classes.

    Args:
        table: A table of two classes, which is returned, or of one: the foreground. None for a
            foreground without a name.
    """
    if table is not None and len(table.names) != 1:
        return table
    return ClassSpec(
        dataset=table.dataset if table else BINARY,
        names=(_BACKGROUND, table.names[0] if table else _FOREGROUND),
        colors=(voc_color(0), table.colors[0] if table else voc_color(1)),
    )
