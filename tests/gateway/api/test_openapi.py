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

import gateway
from gateway.all_endpoints import ENDPOINTS, routes
from gateway.api import schemas, stream_schemas
from gateway.api.endpoint import TAGS, Endpoint
from gateway.api.examples import MODEL
from gateway.api.openapi import openapi_document
from gateway.api.validation import validate_json
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
    assert kept == fresh, "run: python -m gateway.all_endpoints > gateway/api/openapi.json"


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
            assert "example" in content or media_type == "application/octet-stream", (
                f"{method} {path} {status}"
            )


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS_OF_DOCUMENT)
def test_examples_fit_their_schemas(method: str, path: str, operation: dict[str, Any]) -> None:
    contents = [response.get("content", {}) for response in operation["responses"].values()]
    contents.append(operation.get("requestBody", {}).get("content", {}))
    for content in contents:
        for part in content.values():
            examples = [example["value"] for example in part.get("examples", {}).values()]
            for example in [part["example"], *examples] if "example" in part else examples:
                schema(part["schema"]).validate(example)


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.body], ids=lambda e: e.name)
def test_request_examples_are_accepted(endpoint: Endpoint) -> None:
    content = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["requestBody"]["content"]
    described = content["application/json"]
    shown = [example["value"] for example in described.get("examples", {}).values()] or [described["example"]]
    bodies = [validate_json(msgspec.json.encode(example), endpoint.body) for example in shown]
    assert bodies == [endpoint.body_example, *endpoint.more_examples.values()]


def test_an_example_holds_what_it_is_about_and_no_defaults() -> None:
    examples = DOCUMENT["paths"]["/v1/generate_text_embeddings"]["post"]["requestBody"]["content"]
    assert examples["application/json"]["example"] == {
        "text_input": ["a forklift moving pallets"], "model": MODEL,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/ready", "/v1/live", "/v1/startup", "/v1/metrics"])
def test_what_answers_text_says_so_first(path: str) -> None:
    assert next(iter(DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"])) == "text/plain"


def test_embeddings_come_first() -> None:
    assert DOCUMENT["tags"][0]["name"] == "Embeddings"
    assert next(iter(DOCUMENT["paths"])) == "/v1/generate_text_embeddings"


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
    assert form["properties"]["media_type"]["enum"] == ["video", "image"]
    assert "default" not in json.dumps(form)
    assert "examples" not in json.dumps(form)


def test_a_token_is_possible_but_not_required() -> None:
    assert DOCUMENT["components"]["securitySchemes"] == {"Token": {"type": "http", "scheme": "bearer"}}
    assert DOCUMENT["security"] == [{"Token": []}, {}]
