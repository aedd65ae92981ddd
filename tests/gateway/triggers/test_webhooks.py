"""Webhooks: events reach a real server, signed and in order, or are tried again and given up."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest

from gateway.intake.http_source import HttpNetwork
from gateway.search.search_index import SearchIndex
from gateway.triggers import webhooks as module
from gateway.triggers.trigger_records import NewTrigger
from gateway.triggers.trigger_store import TriggerStore
from gateway.triggers.webhooks import Webhooks
from search.schema import migrate
from shared.bus.errorbus import ErrorBus
from shared.errors import InvalidParameters
from shared.redis.connection import Redis
from shared.redis.ending import end
from shared.search import database
from shared.search.database import Connection
from shared.settings import Settings
from tests.gateway.outside import Site, Wire, page, redirect, site
from tests.search.test_trigger_matching import GATE, WANTED, chunk, write
from tests.support import until

HOST = "alerts.example"
Make = Callable[..., Awaitable[Webhooks]]


@pytest.fixture
async def receiver() -> AsyncIterator[Site]:
    async with site() as running:
        running.pages["/in"] = page(status=204)
        yield running


@pytest.fixture
async def connection(settings: Settings, search_url: str) -> AsyncIterator[Connection]:
    opened = await database.connect(replace(settings, search_url=search_url))
    await migrate(opened)
    yield opened
    await opened.close()


class Parts:
    """Webhooks of one gateway, a trigger that has three matches, and what the rest of the gateway hears."""

    def __init__(self, webhooks: Webhooks, store: TriggerStore, errors: ErrorBus, told: list[str]) -> None:
        self.webhooks, self.store, self.errors, self.told = webhooks, store, errors, told
        self.addresses = ["93.184.216.34"]

    async def lookup(self, host: str, port: int) -> list[str]:
        return self.addresses

    async def add(self, connection: Connection, url: str, secret: str = "", name: str = "t") -> None:
        new = NewTrigger(
            id=name, name="A dog", question="text", sentence="a dog", model="tiny", vector=WANTED.tolist(),
            threshold=0.9, cameras=None, files=False, cooldown=0, webhook=f"http://{HOST}",
            delivery=self.webhooks.packed(url, secret), sealed=bool(self.webhooks._settings.secret_keys),
        )  # fmt: skip
        await self.store.create(new, 10)
        await write(connection, *(chunk(GATE, number) for number in range(3)))

    async def later(self, connection: Connection) -> int:
        """Deliver as if every pause were over."""
        await connection.execute("UPDATE triggers SET due = now()")
        return await self.webhooks.deliver()


@pytest.fixture
async def parts(settings: Settings, redis: Redis, search_url: str) -> AsyncIterator[Parts]:
    changed = replace(settings, search_url=search_url, secret_keys=("key",), message_bus="off")
    index = SearchIndex(redis, changed)
    running = asyncio.create_task(index.run())
    await asyncio.sleep(0)
    errors = ErrorBus(redis, changed)
    told: list[str] = []
    errors.emit = lambda event, **_: told.append(event)  # type: ignore[method-assign]
    made = Parts(None, TriggerStore(index), errors, told)  # type: ignore[arg-type]
    made.webhooks = Webhooks(index, changed, errors, HttpNetwork(made.lookup, Wire()))
    yield made
    await end([running])


async def test_events_arrive_in_order_signed_and_once(
    parts: Parts, connection: Connection, receiver: Site
) -> None:
    url = f"http://{HOST}:{receiver.port}/in"
    await parts.add(connection, url, "secret")
    stored = await (await connection.execute("SELECT delivery FROM triggers")).fetchone()
    assert HOST not in str(stored)
    assert [await parts.webhooks.deliver() for _ in range(2)] == [3, 0]
    events = [json.loads(body) for body in receiver.bodies]
    assert [event["chunk"] for event in events] == [0, 1, 2]
    assert (events[0]["trigger"], events[0]["trigger_name"], events[0]["camera"]) == ("t", "A dog", "gate")
    assert events[0]["score"] == pytest.approx(1, abs=1e-3)
    path, headers = receiver.requests[0]
    digest = hmac.new(b"secret", receiver.bodies[0], hashlib.sha256).hexdigest()
    assert path == "/in"
    assert headers["X-RTEmbed-Signature"] == f"sha256={digest}"
    assert (headers["X-RTEmbed-Event"], headers["Content-Type"]) == (events[0]["id"], "application/json")
    assert headers["Host"] == f"{HOST}:{receiver.port}"
    assert (await parts.store.find("t")).waiting == 0


async def test_two_gateways_deliver_an_event_once(
    parts: Parts, connection: Connection, receiver: Site
) -> None:
    await parts.add(connection, f"http://{HOST}:{receiver.port}/in")
    assert sorted(await asyncio.gather(parts.webhooks.deliver(), parts.webhooks.deliver())) == [0, 3]
    assert len(receiver.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page(status=500), "it answered with status 500"),
        (
            redirect("http://93.184.216.34/elsewhere"),
            "it answered with status 302; redirects are not followed",
        ),
        (b"no HTTP at all\r\n\r\n", "it cannot be reached: "),
    ],
)
async def test_what_fails_is_tried_again_and_then_given_up(
    parts: Parts, connection: Connection, receiver: Site, answer: bytes, reason: str
) -> None:
    receiver.pages["/in"] = answer
    await parts.add(connection, f"http://{HOST}:{receiver.port}/in")
    assert await parts.webhooks.deliver() == 1
    assert await parts.webhooks.deliver() == 0, "the pause"
    stored = await parts.store.find("t")
    assert (stored.waiting, stored.given_up, stored.error[: len(reason)]) == (3, 0, reason)
    for _ in range(module.ATTEMPTS - 1):
        assert await parts.later(connection) == 1
    stored = await parts.store.find("t")
    assert (stored.waiting, stored.given_up) == (2, 1)
    (event,) = parts.told
    assert f"'A dog' was not delivered to http://{HOST} in {module.ATTEMPTS} attempts: {reason}" in event
    assert len(set(receiver.bodies)) == 1
    receiver.pages["/in"] = page()
    assert await parts.webhooks.deliver() == 2
    assert (await parts.store.find("t")).error == ""


async def test_a_host_that_moved_into_this_network_gets_nothing(
    parts: Parts, connection: Connection, receiver: Site
) -> None:
    url = f"http://{HOST}:{receiver.port}/in"
    await parts.webhooks.check(url)
    await parts.add(connection, url)
    parts.addresses = ["127.0.0.1"]
    assert await parts.webhooks.deliver() == 1
    assert (await parts.store.find("t")).error == f"The host {HOST} has an address that is not allowed"
    assert receiver.requests == []
    with pytest.raises(InvalidParameters):
        await parts.webhooks.check(url)


async def test_an_address_that_cannot_be_decrypted_fails(
    parts: Parts, connection: Connection, receiver: Site
) -> None:
    await parts.add(connection, f"http://{HOST}:{receiver.port}/in")
    parts.webhooks._settings = replace(parts.webhooks._settings, secret_keys=("another",))
    assert await parts.webhooks.deliver() == 1
    assert "another RTEMBED_SECRET_KEY" in (await parts.store.find("t")).error
    assert receiver.requests == []


async def test_a_slow_webhook_delays_no_other(
    parts: Parts, connection: Connection, receiver: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)

    async def hang(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    receiver.pages["/slow"] = hang
    await parts.add(connection, f"http://{HOST}:{receiver.port}/slow", name="slow")
    await parts.add(connection, f"http://{HOST}:{receiver.port}/in", name="quick")
    await write(connection, chunk(GATE, 7))
    await parts.webhooks.deliver()
    assert (await parts.store.find("quick")).waiting == 0
    assert (await parts.store.find("slow")).error == "no answer within 0.3 s"


async def test_a_running_gateway_delivers(parts: Parts, connection: Connection, receiver: Site) -> None:
    await parts.add(connection, f"http://{HOST}:{receiver.port}/in")
    running = asyncio.create_task(parts.webhooks.run())
    await until(lambda: len(receiver.bodies) == 3)
    await end([running])


def test_a_delivery_does_not_show_in_a_traceback() -> None:
    shown = repr(module.WebhookTarget("http://u", "secret"))
    assert "secret" not in shown
    assert (
        msgspec.json.decode(
            msgspec.json.encode(module.WebhookTarget("http://u", "s")), type=module.WebhookTarget
        ).secret
        == "s"
    )
