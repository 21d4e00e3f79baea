"""Streets drawn from a seed, with exact labels, for training, tests and demonstrations."""

from alignseg_infer.demo.streets.street import Scene, Street

__all__ = ["Scene", "Street"]
