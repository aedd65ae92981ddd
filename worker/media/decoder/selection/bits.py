"""Reads headers of coded pictures bit by bit."""


class Bits:
    """Reads bits from the front of a few bytes; zeros follow their end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._left = len(data) * 8
        self._value = int.from_bytes(data, "big")

    def read(self, count: int) -> int:
        """Return the next `count` bits."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & (1 << count) - 1

    def exp_golomb(self) -> int:
        """Return the next Exp-Golomb code (ITU-T H.264, 9.1)."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
