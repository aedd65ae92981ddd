"""A service that a proxy shows below a path."""

from dataclasses import replace

import pytest

from shared.errors import SettingsError
from shared.settings import Settings, load
from shared.settings.setting_types import NamedKey
from tests.gateway.conftest import Serve, StandIn


async def test_paths_work_with_and_without_the_prefix(
    serve: Serve, settings: Settings, stand_in: StandIn
) -> None:
    changed = replace(settings, root_path="/a/b", api_keys=(NamedKey("", "secret"),))
    key = {"Authorization": "Bearer secret"}
    async with serve(changed) as gateway:
        for prefix in ("", "/a/b"):
            home = f"{gateway.url}{prefix}"
            assert (await gateway.client.get(f"{home}/v1/live")).status_code == 200
            assert (await gateway.client.get(f"{home}/v1/models")).status_code == 401
            assert (await gateway.client.get(f"{home}/console/main.js")).status_code == 200
            accepted = await gateway.client.post(
                f"{home}/v1/generate_text_embeddings",
                json={"text_input": "a", "model": "null"},
                headers={**key, "Prefer": "respond-async"},
            )
            assert accepted.headers["location"].startswith("/a/b/v1/requests/")
        document = (await gateway.client.get(f"{gateway.url}/a/b/openapi.json")).json()
        other = await gateway.client.get(f"{gateway.url}/a/bc/v1/live", headers=key)
    assert document["servers"] == [{"url": "/a/b"}]
    assert other.status_code == 404


@pytest.mark.parametrize("path", ["prefix", "/prefix/", "/a b", "//host"])
def test_a_prefix_is_a_path(path: str) -> None:
    with pytest.raises(SettingsError):
        load({"RTEMBED_ROOT_PATH": path})
