"""Requests that a page of another site sends from somebody's browser."""

from dataclasses import replace
from ipaddress import ip_network
from itertools import product

from shared.settings import Settings, load
from tests.gateway.conftest import Gateway, Serve

CONFIG = b'{"alert_type": "config", "event": {}}'


async def status(gateway: Gateway, method: str = "GET", path: str = "/version", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await gateway.client.request(method, path, headers=named)).status_code


async def test_pages_of_other_sites_are_refused(serve: Serve, settings: Settings) -> None:
    origins = ("https://evil.example", "null", "http://127.0.0.1:1", "x", "file://")
    async with serve(settings) as gateway:
        for origin, method in product(origins, ("GET", "POST", "DELETE", "OPTIONS")):
            answer = await gateway.client.request(method, "/version", headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "Forbidden")
            assert "access-control-allow-origin" not in answer.headers


async def test_the_attack_that_changed_where_data_goes(serve: Serve, settings: Settings) -> None:
    """A form may send text/plain anywhere without a preflight."""
    async with serve(settings) as gateway:
        simple = {"Content-Type": "text/plain"}
        answer = await gateway.client.post("/config", content=CONFIG, headers=simple)
        assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
        assert "Content-Type" in answer.json()["message"]
        foreign = {"Content-Type": "application/json", "Origin": "https://evil.example"}
        assert (await gateway.client.post("/config", content=CONFIG, headers=foreign)).status_code == 403


async def test_our_own_pages_may_use_the_service(serve: Serve, settings: Settings) -> None:
    async with serve(settings) as gateway:
        host = f"127.0.0.1:{gateway.port}"
        assert await status(gateway, Origin=f"http://{host}") == 200
        assert await status(gateway, Origin=f"https://{host}") == 200, "a proxy may have ended TLS"
        assert await status(gateway, Origin="https://rt.example", Host="rt.example") == 200
        assert await status(gateway, Origin="https://rt.example", Host="rt.example:443") == 200
        assert await status(gateway, Origin="https://rt.example:443", Host="rt.example") == 200
        assert await status(gateway, Origin="https://rt.example:444", Host="rt.example") == 403
        assert await status(gateway, Origin="https://art.example", Host="rt.example") == 403


async def test_sites_can_be_allowed_and_preflights_are_answered(serve: Serve, settings: Settings) -> None:
    origins = load({"RTEMBED_CORS_ORIGINS": "https://App.example/, https://b.example:8443"}).cors_origins
    async with serve(replace(settings, cors_origins=origins)) as gateway:
        for origin in ("https://app.example", "https://b.example:8443"):
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,authorization",
            }
            preflight = await gateway.client.options("/generate_text_embeddings", headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "content-type" in preflight.headers["access-control-allow-headers"]
            answer = await gateway.client.get("/version", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
        assert await status(gateway, Origin="https://evil.example") == 403


async def test_preflights_need_no_key(serve: Serve, settings: Settings) -> None:
    keyed = load({"RTEMBED_API_KEYS": "k"}).api_keys
    shared = replace(settings, api_keys=keyed, cors_origins=("*",))
    async with serve(shared) as gateway:
        asked = {"Origin": "https://any.example", "Access-Control-Request-Method": "POST"}
        assert (await gateway.client.options("/config", headers=asked)).status_code == 200
        assert await status(gateway, Origin="https://any.example") == 401


async def test_names_that_are_not_ours(serve: Serve, settings: Settings) -> None:
    """An attacker's name that leads to this machine would make their page one of ours."""
    hosts = load({"RTEMBED_ALLOWED_HOSTS": "localhost,127.0.0.1,::1,*.rt.example"}).allowed_hosts
    ours = ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "a.rt.example")
    others = ("rt.example", "evil.example", "localhost.evil.example", "evil.example:8000", "[::2]", "[", "")
    async with serve(replace(settings, allowed_hosts=hosts)) as gateway:
        for host in (*ours, *others):
            assert await status(gateway, Host=host) == (200 if host in ours else 421), host
            assert await status(gateway, path="/live", Host=host) == 200, "as kubelets ask"


async def test_a_trusted_proxy_says_which_host_was_asked(serve: Serve, settings: Settings) -> None:
    forwarded = {"Origin": "https://rt.example", "X_Forwarded_Host": "rt.example"}
    async with serve(settings) as gateway:
        assert await status(gateway, **forwarded) == 403
    async with serve(replace(settings, trusted_proxies=(ip_network("127.0.0.0/8"),))) as gateway:
        assert await status(gateway, **forwarded) == 200


async def test_json_is_called_json(serve: Serve, settings: Settings) -> None:
    async with serve(settings) as gateway:
        for kind in ("application/json", "application/json; charset=utf-8", "Application/vnd.x+json"):
            answer = await gateway.client.post("/config", content=CONFIG, headers={"Content-Type": kind})
            assert "Content-Type" not in answer.json()["message"]


async def test_nothing_else_is_read_as_json(serve: Serve, settings: Settings) -> None:
    kinds = ("", "text/plain", "application/x-www-form-urlencoded", "text/json", "json")
    paths = (
        "/config", "/generate_video_embeddings", "/generate_text_embeddings", "/embeddings", "/streams/add",
        "/stream/add", "/stream/remove",
    )  # fmt: skip
    async with serve(settings) as gateway:
        for path, kind in product(paths, kinds):
            answer = await gateway.client.post(path, content=b"{}", headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
            assert answer.json()["message"].startswith("('body',): Send JSON")
