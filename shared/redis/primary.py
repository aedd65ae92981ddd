"""Where the primary is: at a fixed address, where the Sentinels say, or the cluster node that owns our slot.

Every connection asks for the address when it is opened. When a server turns out not to be the primary, all
connections opened before then are given up, so that a demoted server that keeps its connections open serves
nobody.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis-py's names

from shared.keys import PREFIX

Address = tuple[str, int]
Ask = Callable[..., Awaitable[Any]]
"""`await ask(address, *command)`: the answer of one server. Raises RedisError."""

SLOT = key_slot(PREFIX.encode())
MOST_NODES = 64
"""How many nodes of a cluster are remembered."""


class FixedPrimary:
    """A primary at one address, whose name is resolved for each connection."""

    def __init__(self, address: Address | None) -> None:
        """`address`: None for a Unix socket."""
        self._address = address
        self.epoch = 0
        """Grows when a server turns out not to be the primary."""

    def disown(self, epoch: int) -> None:
        """Give up all connections that were opened by the time of `epoch`."""
        if epoch == self.epoch:
            self.epoch += 1

    async def address(self) -> Address | None:
        """Return where the primary is now. Raises ConnectionError if it is unknown."""
        return self._address


class SentinelPrimary(FixedPrimary):
    """The primary that a majority of the Sentinels that answer name."""

    def __init__(self, ask: Ask, sentinels: Sequence[Address], name: str, patience: float) -> None:
        super().__init__(None)
        self._ask = ask
        self._sentinels = sentinels
        self._name = name
        self._patience = patience

    async def address(self) -> Address:
        """Return where the primary is now. Raises ConnectionError if no Sentinel says."""

        async def named(sentinel: Address) -> Address:
            answer = await self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            if not answer:
                raise ConnectionError(f"Sentinel {show(sentinel)} knows no primary {self._name!r}")
            host, port = answer
            return host.decode(), int(port)

        return await agreed([named(sentinel) for sentinel in self._sentinels], self._patience)


class ClusterPrimary(FixedPrimary):
    """The node of a cluster that owns the slot of all our keys, as most of the nodes say."""

    def __init__(self, ask: Ask, seeds: Sequence[Address], patience: float) -> None:
        super().__init__(None)
        self._ask = ask
        self._seeds = tuple(seeds)
        self._nodes: tuple[Address, ...] = ()
        self._patience = patience

    async def address(self) -> Address:
        """Return where the owner is now. Raises ConnectionError if no node says."""
        known: set[Address] = set()

        async def named(node: Address) -> Address:
            ranges = [_range(entry, node) for entry in await self._ask(node, "CLUSTER", "SLOTS")]
            known.update(address for _, _, addresses in ranges for address in addresses)
            owner = next((nodes[0] for first, last, nodes in ranges if first <= SLOT <= last), None)
            if owner is None:
                raise ConnectionError(f"{show(node)} knows no owner of slot {SLOT}")
            return owner

        nodes = dict.fromkeys((*self._seeds, *self._nodes))
        try:
            return await agreed([named(node) for node in nodes], self._patience)
        finally:
            if known:
                self._nodes = tuple(sorted(known))[:MOST_NODES]


async def agreed(answers: Sequence[Coroutine[Any, Any, Address]], patience: float) -> Address:
    """Return the address that most answers name, as soon as more than half of all do, or after `patience`
    seconds. Raises ConnectionError with what went wrong if there is no answer."""
    asked = [asyncio.create_task(answer) for answer in answers]
    votes: Counter[Address] = Counter()
    problems: list[str] = []
    try:
        with suppress(TimeoutError):
            for answer in asyncio.as_completed(asked, timeout=patience):
                try:
                    votes[await answer] += 1
                except RedisError as error:
                    problems.append(str(error))
                if votes and votes.most_common(1)[0][1] * 2 > len(asked):
                    break
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not votes:
        raise ConnectionError("no server says where the primary is: " + ("; ".join(problems) or "no answer"))
    return votes.most_common(1)[0][0]


def show(address: Address) -> str:
    """Return an address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, port: int) -> Address:
    """Return the address in `text`, host:port or host with this `port`. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or port


def _range(entry: Any, asked: Address) -> tuple[int, int, list[Address]]:
    """Read one entry of CLUSTER SLOTS; a node without a name is the one that was asked."""
    first, last, *nodes = entry
    return first, last, [((host or asked[0].encode()).decode(), port) for host, port, *_ in nodes]
