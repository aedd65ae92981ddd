"""API keys, and the rate limit that all gateways share."""

from dataclasses import replace
from hashlib import sha256

import pytest

from gateway.access.api_keys import MOST_ADDRESSES, WrongKeys
from gateway.all_endpoints import routes
from shared import keys
from shared.errors import TooManyRequests
from shared.fleet import Worker
from shared.redis.connection import Redis
from shared.settings import Settings
from shared.settings.setting_types import NamedKey
from tests.gateway.conftest import Serve

KEYED = (NamedKey("", "first-key"), NamedKey("dock", "second-key"))
FREE = ["/v1/ready", "/v1/live", "/v1/startup", "/v1/metrics", "/openapi.json", "/docs", "/redoc"]


@pytest.mark.usefixtures("worker")
async def test_health_metrics_and_documentation_need_no_key(serve: Serve, settings: Settings) -> None:
    async with serve(replace(settings, api_keys=KEYED, rate_limit=1)) as gateway:
        pages = [*FREE, "/docs/swagger-ui/swagger-ui.css"]
        found = {page: (await gateway.client.get(f"{gateway.url}{page}")).status_code for page in pages * 2}
    assert found == dict.fromkeys(pages, 200)


async def test_everything_else_does(serve: Serve, settings: Settings) -> None:
    asked = {(r.path, m) for r in routes() if r.path not in FREE for m in (r.methods or ()) if m != "HEAD"}
    assert len(asked) > 30
    async with serve(replace(settings, api_keys=KEYED)) as gateway:
        for path, method in sorted(asked):
            url = gateway.url + path.replace("{", "").replace("}", "")
            answer = await gateway.client.request(method, url)
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == "Unauthorized"


async def test_which_keys_are_known(serve: Serve, settings: Settings) -> None:
    async with serve(replace(settings, api_keys=KEYED)) as gateway:

        async def status(**headers: str) -> int:
            return (await gateway.client.get("/metadata", headers=headers)).status_code

        assert await status(Authorization="Bearer first-key") == 200
        assert await status(authorization="bearer second-key") == 200
        assert await status(**{"X-API-Key": "second-key"}) == 200
        for wrong in (
            "first-key",
            "Bearer first",
            "Bearer first-keyy",
            "Bearer",
            "Basic first-key",
            "Bearer ü",
        ):
            headers = [(b"authorization", wrong.encode())]
            assert (await gateway.client.get("/metadata", headers=headers)).status_code == 401
        assert await status() == 401


async def test_without_keys_none_is_asked_for(serve: Serve, settings: Settings) -> None:
    async with serve(settings) as gateway:
        assert (await gateway.client.get("/metadata")).status_code == 200
        assert (
            await gateway.client.get("/metadata", headers={"Authorization": "Bearer x"})
        ).status_code == 200


async def test_each_key_has_its_own_limit_over_all_gateways(
    serve: Serve, settings: Settings, worker: Worker
) -> None:
    limited = replace(settings, api_keys=KEYED, rate_limit=3)
    async with serve(limited) as one, serve(limited) as other:

        async def status(number: int, key: str) -> int:
            gateway = (one, other)[number % 2]
            headers = {"Authorization": f"Bearer {key}"}
            return (await gateway.client.get("/metadata", headers=headers)).status_code

        assert [await status(n, "first-key") for n in range(5)] == [200, 200, 200, 429, 429]
        assert [await status(n, "second-key") for n in range(3)] == [200, 200, 200]
        refused = await one.client.get("/metadata", headers={"Authorization": "Bearer first-key"})
    assert refused.json()["code"] == "TooManyRequests"
    assert 1 <= int(refused.headers["retry-after"]) <= 20


async def test_requests_come_back_with_time(serve: Serve, settings: Settings) -> None:
    async with serve(replace(settings, rate_limit=600)) as gateway:
        statuses = [(await gateway.client.get("/metadata")).status_code for _ in range(600)]
        while (answer := await gateway.client.get("/metadata")).status_code == 200:
            statuses.append(200)
        assert answer.headers["retry-after"] == "1"
        assert statuses.count(200) >= 600, "what is not used in a minute adds up"


CONFIG = {
    "alert_type": "config", "created_at": "2023-03-10T00:45:16Z", "txn_id": "t1", "source": "vios",
    "event": {"change": "config", "metadata": {"messagingbus": "redis", "topic-prefix": "elsewhere"}},
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/config", "/api/v1/config"])
async def test_what_changes_the_service_needs_an_administrator(
    serve: Serve, settings: Settings, path: str
) -> None:
    administered = replace(settings, api_keys=KEYED, admin_keys=(NamedKey("boss", "admin-key"),))
    async with serve(administered) as gateway:

        async def status(key: str) -> tuple[int, str | None]:
            headers = {"X-API-Key": key} if key else {}
            answer = await gateway.client.post(f"{gateway.url}{path}", json=CONFIG, headers=headers)
            return answer.status_code, answer.json().get("code")

        assert await status("") == (401, "Unauthorized")
        assert await status("second-key") == (403, "Forbidden")
        assert await status("admin-key") == (200, None)
        read = await gateway.client.get("/metadata", headers={"X-API-Key": "admin-key"})
        assert read.status_code == 200


async def test_an_administrators_key_alone_closes_only_what_changes_the_service(
    serve: Serve, settings: Settings
) -> None:
    async with serve(replace(settings, admin_keys=(NamedKey("", "admin-key"),))) as gateway:
        assert (await gateway.client.get("/metadata")).status_code == 200
        assert (await gateway.client.post("/config", json=CONFIG)).status_code == 401


async def test_without_administrators_every_key_changes_the_service(serve: Serve, settings: Settings) -> None:
    async with serve(replace(settings, api_keys=KEYED)) as gateway:
        headers = {"X-API-Key": "first-key"}
        assert (await gateway.client.post("/config", json=CONFIG, headers=headers)).status_code == 200


@pytest.mark.usefixtures("worker")
async def test_names_of_keys_stand_on_records(serve: Serve, settings: Settings, redis: Redis) -> None:
    unverified = replace(settings, api_keys=KEYED, skip_media_verification=True)
    async with serve(unverified) as gateway:
        for key, name in (
            ("second-key", "dock"),
            ("first-key", f"key-{sha256(b'first-key').hexdigest()[:8]}"),
        ):
            headers = {"X-API-Key": key}
            form = {"purpose": "vision", "media_type": "video"}
            files = {"file": ("a.mp4", b"x")}
            added = await gateway.client.post("/files", data=form, files=files, headers=headers)
            assert await redis.hget(keys.asset(added.json()["id"]), "caller") == name.encode()
            body = {"model": "null", "text_input": ["a"]}
            wanted = {**headers, "Prefer": "respond-async"}
            answer = await gateway.client.post("/generate_text_embeddings", json=body, headers=wanted)
            assert answer.status_code == 202, answer.text
            assert await redis.hget(keys.request(answer.json()["id"]), "caller") == name.encode()


async def test_who_guesses_keys_has_to_wait(serve: Serve, settings: Settings) -> None:
    """At 1,958 tries a second a short key was found in a night."""
    guarded = replace(settings, api_keys=KEYED, wrong_keys_per_minute=5)
    async with serve(guarded) as gateway:

        async def status(key: str) -> int:
            return (await gateway.client.get("/metadata", headers={"X-API-Key": key})).status_code

        assert await status("first-key") == 200
        assert await status("") == 401, "no key is no guess"
        found = [await status(f"guess-{number}") for number in range(50)]
        assert found == [401] * 5 + [429] * 45
        refused = await gateway.client.get("/metadata", headers={"X-API-Key": "guess"})
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        assert await status("second-key") == 429, "else a guesser would see which key is right"
        assert await status("first-key") == 200, "it has been used from here before"


def test_guessers_are_told_apart_and_forgotten() -> None:
    guesses = WrongKeys(2)
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2"):
        guesses.wrong(address)
    for address in ("192.0.2.1", "2001:db8::ffff"):
        with pytest.raises(TooManyRequests):
            guesses.check(address, b"x")
    for address in ("192.0.2.2", "2001:db8:0:1::1", "unknown"):
        guesses.check(address, b"x")
    for number in range(MOST_ADDRESSES):
        guesses.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    guesses.check("192.0.2.1", b"x")


def test_any_number_of_wrong_keys_may_be_allowed() -> None:
    guesses = WrongKeys(0)
    for _ in range(100):
        guesses.wrong("192.0.2.1")
    guesses.check("192.0.2.1", b"x")
