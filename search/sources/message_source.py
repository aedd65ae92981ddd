"""Where an indexer gets embedding messages: a consumer group of the message bus that all indexers share."""

from typing import NamedTuple, Protocol

from shared.search.indexer_records import Lag

GROUP = "rt-embed-indexers"
"""The consumer group, on Kafka and on Redis."""
MESSAGE_TYPE = b"vision_llm"
"""What the header of a message says that holds an embedding; one without the header counts as such, too."""


class TakenMessages(NamedTuple):
    """Messages that this indexer has and the bus may still give to another, until `finish`."""

    values: list[bytes]
    """The messages themselves; those of other types are left out."""
    ids: list[bytes]
    """What a Redis stream knows them by, other types included; empty for Kafka, which counts."""


class MessageSource(Protocol):
    """One member of the consumer group. Every method raises BusError or RedisError when the bus fails; then
    `close` it and make another."""

    async def open(self) -> None:
        """Join the group; a group that is new starts with the oldest message."""

    async def take(self, count: int) -> TakenMessages:
        """Wait about a second for messages, and return at most `count`, or none."""

    async def finish(self, taken: TakenMessages) -> None:
        """Tell the bus that these messages are done with."""

    async def lag(self) -> Lag:
        """Return how far behind the group is."""

    async def close(self) -> None:
        """Leave the group. Messages that were not finished go to other members."""
