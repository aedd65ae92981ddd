"""API keys, and the rate limit that all gateways share."""

from dataclasses import replace

import pytest

from gateway.routing import routes
from shared.fleet import Worker
from shared.settings import Settings
from tests.gateway.conftest import Serve

KEYED = ("first-key", "second-key")
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
