"""The API description: true to the application, valid, complete, up to date; and its pages work offline."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.testclient import TestClient

import gateway
from gateway.api import schemas, stream_schemas
from gateway.api.endpoint import TAGS, Endpoint
from gateway.api.openapi import openapi_document
from gateway.api.validation import validate_json
from gateway.endpoints import docs
from gateway.routing import ENDPOINTS, routes
from shared.errors import RtEmbedError

DOCUMENT = openapi_document(ENDPOINTS)


OPERATIONS_OF_DOCUMENT = [
    (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def schema(reference: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**reference, "components": DOCUMENT["components"]})


def models(base: type[schemas.ApiType] = schemas.ApiType) -> Iterator[type[schemas.ApiType]]:
    for model in base.__subclasses__():
        yield model
        yield from models(model)


MODELS = sorted({m for m in models() if m.__module__ in (schemas.__name__, stream_schemas.__name__)}, key=str)


def test_the_document_is_openapi_3_1() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_the_document_has_exactly_the_routes_of_the_application() -> None:
    served = {
        (method.lower(), route.path)
        for route in routes()
        for method in route.methods or ()
        if method != "HEAD" and route.include_in_schema and route.path.startswith("/v1")
    }
    assert {(method, path) for method, path, _ in OPERATIONS_OF_DOCUMENT} == served


def test_operations_are_named_after_their_handlers() -> None:
    handlers = {(method, route.path): route.name for route in routes() for method in route.methods or ()}
    assert {(e.method, e.path): e.name for e in ENDPOINTS}.items() <= handlers.items()


def test_aliases_are_served_but_not_described() -> None:
    served = {(method, route.path) for route in routes() for method in route.methods or ()}
    for alias in [
        ("PUT", "/api/v1/camera/streaming"),
        ("DELETE", "/v1/camera/remove"),
        ("POST", "/api/v1/config"),
    ]:
        assert alias in served
        assert alias[1] not in DOCUMENT["paths"]


def test_the_checked_in_document_is_up_to_date() -> None:
    kept = (Path(gateway.__file__).parent / "api" / "openapi.json").read_text(encoding="utf-8")
    fresh = json.dumps(DOCUMENT, indent=2, ensure_ascii=False) + "\n"
    assert kept == fresh, "run: python -m gateway.api.openapi > gateway/api/openapi.json"


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS_OF_DOCUMENT)
def test_an_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert set(operation["tags"]) <= set(TAGS)
    assert re.findall(r"\{(\w+)\}", path) == [
        p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"
    ]
    for status, response in operation["responses"].items():
        assert response["description"]
        for media_type, content in response.get("content", {}).items():
            assert "example" in content or media_type == "*/*", f"{method} {path} {status}"


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS_OF_DOCUMENT)
def test_examples_fit_their_schemas(method: str, path: str, operation: dict[str, Any]) -> None:
    contents = [response.get("content", {}) for response in operation["responses"].values()]
    contents.append(operation.get("requestBody", {}).get("content", {}))
    for content in contents:
        for part in content.values():
            if "example" in part:
                schema(part["schema"]).validate(part["example"])


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.body], ids=lambda e: e.name)
def test_request_examples_are_accepted(endpoint: Endpoint) -> None:
    assert validate_json(msgspec.json.encode(endpoint.body_example), endpoint.body) == endpoint.body_example


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_errors_are_told_by_code(endpoint: Endpoint) -> None:
    described = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"]
    for error in endpoint.all_errors():
        assert f"`{error.code}`: " in described[str(error.status)]["description"]
    assert issubclass(RtEmbedError, Exception)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_type_can_be_described(model: type[schemas.ApiType]) -> None:
    _, components = msgspec.json.schema_components([model])
    assert components[model.__name__]["description"].strip()


def test_an_answer_has_all_its_fields() -> None:
    file = DOCUMENT["components"]["schemas"]["TypedFile"]
    assert set(file["required"]) == set(file["properties"]) >= {"purpose", "sensor_name"}
    event = DOCUMENT["components"]["schemas"]["EventChunk"]
    assert set(event["required"]) == {"start_time", "end_time", "embeddings"}


def test_patterns_are_those_of_json_schema() -> None:
    def patterns(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (v for k, v in node.items() if k == "pattern" and isinstance(v, str))
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from patterns(child)

    found = set(patterns(DOCUMENT))
    assert found
    assert not [pattern for pattern in found if r"\Z" in pattern]


def test_forms_and_queries_have_no_null() -> None:
    form = DOCUMENT["components"]["schemas"]["UploadForm"]
    assert form["properties"]["file"]["format"] == "binary"
    assert form["properties"]["id"]["format"] == "uuid"
    assert "null" not in json.dumps(form)
    assert form["required"] == ["purpose", "media_type"]


def test_a_token_is_possible_but_not_required() -> None:
    assert DOCUMENT["components"]["securitySchemes"] == {"Token": {"type": "http", "scheme": "bearer"}}
    assert DOCUMENT["security"] == [{"Token": []}, {}]


# Pages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=docs.routes(ENDPOINTS))) as client:
        yield client


def test_the_document_is_served(client: TestClient) -> None:
    assert client.get("/openapi.json").json() == DOCUMENT


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_loads_only_what_this_server_has(client: TestClient, page: str) -> None:
    response = client.get(page)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r"""(?:src|href|url|spec-url)(?:=|: )"([^"]+)""", response.text)
    assert len(links) >= 3
    for link in links:
        assert "//" not in link
        assert client.get(f"/{link}").status_code == 200


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_may_not_load_from_elsewhere(client: TestClient, page: str) -> None:
    policy = client.get(page).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "*" not in policy
