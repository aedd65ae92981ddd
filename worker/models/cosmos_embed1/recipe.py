"""What a checkpoint's weights and configuration leave open, and the possible alternatives."""

import re
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

import msgspec

Channels = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How the parts of the model are combined. The defaults are those of its ancestor, BLIP-2."""

    mean: Channels = CLIP_MEAN
    """Subtracted from the pixels in 0..1, per channel."""
    std: Channels = CLIP_STD
    """The divisor of the pixels after that, per channel."""
    temporal: Literal["after_norm", "before_norm"] = "after_norm"
    """Whether a frame's row of the temporal table is added to its tokens after `ln_vision` or before it."""
    pooling: Literal["mean", "mean_of_unit", "first"] = "mean"
    """How projected queries become one vector: their mean, the mean of their unit vectors, or the first."""
    vision_epsilon: float = 1e-6
    """The epsilon of the encoder's layer norms."""
    norm_epsilon: float = 1e-5
    """Of `ln_vision`."""
    text_epsilon: float = 1e-12
    """The epsilon of the Q-Former's layer norms."""

    @property
    def pixels(self) -> tuple[Channels, Channels]:
        """The part that the vision encoder, nearly all of the cost, depends on."""
        return self.mean, self.std


def tails(recipe: Recipe) -> list[Recipe]:
    """Return `recipe` first, then every other variant with the same vision encoder."""
    ways = product(("after_norm", "before_norm"), ("mean", "mean_of_unit", "first"))
    others = [
        msgspec.structs.replace(recipe, temporal=temporal, pooling=pooling) for temporal, pooling in ways
    ]
    return [recipe, *(other for other in others if other != recipe)]


def pixel_constants(code: Path) -> Iterator[tuple[Channels, Channels]]:
    """Return (mean, std) pairs that the model may use: those of related models, then pairs of consecutive
    triples of numbers in the checkpoint's Python files."""
    known = [
        (CLIP_MEAN, CLIP_STD),
        (IMAGENET_MEAN, IMAGENET_STD),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ]
    yield from known
    for path in sorted(code.glob("*.py")):
        yield from (pair for pair in written_constants(path) if pair not in known)


def written_constants(path: Path) -> list[tuple[Channels, Channels]]:
    """Return possible (mean, std) pairs in a Python file; none if there is no file."""
    if not path.exists():
        return []
    triples = [_channels(match) for match in _TRIPLE.finditer(path.read_text("utf-8", "replace"))]
    return [pair for pair in pairwise(triples) if min(pair[1]) > 0]


def _channels(match: re.Match[str]) -> Channels:
    return float(match[1]), float(match[2]), float(match[3])


_NUMBER = r"\s*(-?\d*\.\d+(?:[eE]-?\d+)?)\s*+"
_TRIPLE = re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},?\s*[\])]")
