"""Files that were media once: damaged in every way that disks, networks and attackers know."""

import random
from collections.abc import Sequence

HEAD = 2048  # where containers keep what they are


def mutant(sources: Sequence[bytes], seed: int) -> bytes:
    """One of the files, damaged; the same seed damages it in the same way."""
    rng = random.Random(seed)
    data = bytearray(sources[seed % len(sources)])
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice([_flip, _flip_head, _cut_off, _cut_out, _repeat, _blank, _fill, _splice, _numbers])(
            data, rng, sources
        )
    return bytes(data)


def _flip(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """Wrong bits here and there."""
    for _ in range(rng.choice([1, 10, 100, len(data) // 100 + 1])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_head(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """Wrong bits in a header, at the front or at the back."""
    for _ in range(rng.choice([1, 4, 20])):
        if data:
            at = rng.randrange(min(HEAD, len(data)))
            data[at if rng.random() < 0.5 else -1 - at] ^= 1 << rng.randrange(8)


def _cut_off(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """The end is missing."""
    del data[rng.randrange(len(data) + 1) :]


def _cut_out(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """A piece is missing."""
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice([1, 100, 4096, 50_000])]


def _repeat(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """A piece is there twice."""
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.choice([1, 100, 4096])]


def _blank(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """A block that was never written."""
    at, length = rng.randrange(len(data) + 1), rng.choice([16, 512, 4096])
    data[at : at + length] = bytes(len(data[at : at + length]))


def _fill(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """A block of something else."""
    at, length = rng.randrange(len(data) + 1), rng.choice([16, 512, 4096])
    data[at : at + length] = rng.randbytes(len(data[at : at + length]))


def _splice(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """It goes on as another file."""
    other = rng.choice(sources)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other)) :]


def _numbers(data: bytearray, rng: random.Random, sources: Sequence[bytes]) -> None:
    """Sizes and counts at the edges of their range."""
    for _ in range(rng.choice([1, 5])):
        at = rng.randrange(len(data) + 1)
        extreme = rng.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1"]
        )
        data[at : at + 4] = extreme[: len(data[at : at + 4])]
