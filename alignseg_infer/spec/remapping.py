"""How the classes of a network become those of its labels."""

from dataclasses import dataclass

from alignseg_infer.spec.from_json import unreadable_spec

MAX_LABEL = 65535  # labels are uint16 at most


@dataclass(frozen=True, kw_only=True)
class RemapSpec:
    """Classes that are renamed, merged or left out, and how sure the network has to be.

    Attributes:
        names: The network's own class names, by channel.
        labels: The label that each of them becomes; `void` for those that are left out.
        void: Label of pixels without a class; above the labels of all classes.
        threshold: Probability of its label, 0..1, below which a pixel gets no class; None for no
            limit. The probability of a merged class is the sum over its parts.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    void: int
    threshold: float | None = None

    def __post_init__(self) -> None:
        least = 1 + max((label for label in self.labels if label != self.void), default=-1)
        known = least > 0 and {*range(least)} <= {*self.labels} <= {*range(least), self.void}
        if len(self.names) != len(self.labels) or not known:
            raise unreadable_spec(f"{len(self.names)} classes become the labels {self.labels}")
        if not least <= self.void <= MAX_LABEL:
            raise unreadable_spec(f"void is {self.void}, and there are {least} classes")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise unreadable_spec(f"the threshold is {self.threshold}")

    @property
    def largest(self) -> int:
        """The largest label that a pixel may get."""
        return max(*self.labels, self.void if self.threshold is not None else 0)

    @property
    def needs_sums(self) -> bool:
        """Whether the probability of a label may be a sum over several of the network's classes."""
        return len(set(self.labels)) < len(self.labels)
