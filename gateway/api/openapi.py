"""The OpenAPI 3.1 document, built from the endpoints' declarations and the types that validate requests.

`python -m gateway.all_endpoints` prints it, and `gateway/api/openapi.json` keeps it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from typing import Any, get_args

import msgspec

from gateway.api.endpoint import PATH_PARAMETERS, TAGS, Answer, Endpoint
from gateway.api.schemas import ApiResponse, Error, MediaType
from shared.errors import InvalidParameters, RtEmbedError

Schema = dict[str, Any]

TITLE = "RTVI Embed Microservice API"
DESCRIPTION = (
    "Vectors for video, images and text, in one space. Files are uploaded or fetched from a URL, and each "
    "chunk of a video becomes one vector."
)
PLAIN = "text/plain"
MEDIA_TYPES = list(get_args(MediaType))
_REFERENCE = "#/components/schemas/{name}"


_UUID_SCHEMA = {"type": "string", "format": "uuid", "minLength": 36, "maxLength": 36}
_STREAM_ID_SCHEMA = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$", "maxLength": 256}
_ID_SCHEMAS = {
    "stream_id": _STREAM_ID_SCHEMA,
    "asset_id": _STREAM_ID_SCHEMA,
    "model_id": {"type": "string", "maxLength": 256},
}
"""Of path parameters that are not UUIDs."""


def openapi_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the whole document as objects that JSON can hold."""
    types = _types(endpoints)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    reference = dict(zip(types, map(_published, schemas), strict=True))
    components = {name: _published(schema) for name, schema in components.items()}
    for type_ in _answers(ApiResponse):
        if type_.__name__ in components and not type_.__struct_config__.omit_defaults:
            _require_all(components[type_.__name__])
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for endpoint in endpoints:
        paths[endpoint.path][endpoint.method.lower()] = _operation(endpoint, reference, components)
    for name in {endpoint.form.__name__ for endpoint in endpoints if endpoint.form}:
        components[name]["properties"] = _empty(_optional(components[name]["properties"]))
    for name in {endpoint.query.__name__ for endpoint in endpoints if endpoint.query}:
        del components[name]
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "v1", "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"Token": []}, {}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "securitySchemes": {"Token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(endpoints: Sequence[Endpoint]) -> list[type[msgspec.Struct]]:
    found: dict[type[msgspec.Struct], None] = {Error: None}
    for endpoint in endpoints:
        named = (endpoint.query, endpoint.form, endpoint.body)
        answered = (type_ for answer in endpoint.answers for type_ in answer.types())
        found.update(dict.fromkeys(type_ for type_ in (*named, *answered) if type_ is not None))
    return list(found)


def _answers(base: type[ApiResponse]) -> Iterable[type[ApiResponse]]:
    for type_ in base.__subclasses__():
        yield type_
        yield from _answers(type_)


def _require_all(schema: Schema) -> None:
    """Require all fields: answers have every field, also those with a default. One that may be unset, which
    is told to those only who ask for it, has none."""
    always = schema.get("required", ())
    properties = schema["properties"].items()
    schema["required"] = [name for name, field in properties if name in always or "default" in field]
    for field in schema["properties"].values():
        field.pop("default", None)


def _published(schema: Any) -> Any:
    """Return a schema with patterns in JSON Schema's dialect, and none where a format says the same."""
    if isinstance(schema, list):
        return [_published(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _published(value) for key, value in schema.items()}
    if isinstance(result.get("description"), str):
        result["description"] = cleandoc(result["description"])
    if "x-pattern" in result:  # msgspec lets its own pattern win over one in `extra_json_schema`
        result["pattern"] = result.pop("x-pattern")
    if isinstance(result.get("pattern"), str):
        result["pattern"] = result["pattern"].replace(r"\Z", "$")
        if result.get("format") == "uuid":
            del result["pattern"]
    if set(result.get("enum", ())) == set(MEDIA_TYPES):
        result["enum"] = MEDIA_TYPES  # msgspec sorts; a page shows the first one
    return result


def _operation(endpoint: Endpoint, reference: dict[type, Schema], components: Schema) -> Schema:
    result: Schema = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": {
            **{str(answer.status): _answer(answer, reference) for answer in endpoint.answers},
            **_errors(endpoint),
        },
    }
    if endpoint.description:
        result["description"] = endpoint.description
    queried = _query_parameters(endpoint, reference, components)
    if parameters := [*_path_parameters(endpoint), *queried, *_header_parameters(endpoint)]:
        result["parameters"] = parameters
    if endpoint.body:
        content = {"schema": reference[endpoint.body], **_body_examples(endpoint)}
        result["requestBody"] = {"required": True, "content": {"application/json": content}}
    if endpoint.form:
        form = {"schema": reference[endpoint.form]}
        result["requestBody"] = {"required": True, "content": {"multipart/form-data": form}}
    return result


def _body_examples(endpoint: Endpoint) -> Schema:
    """Return examples of the body without the fields that have their defaults."""
    if endpoint.body_example is None:
        return {}
    if not endpoint.more_examples:
        return {"example": _given(endpoint.body_example)}
    named = {"Ready to be sent": endpoint.body_example, **endpoint.more_examples}
    return {"examples": {name: {"value": _given(body)} for name, body in named.items()}}


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    found = [(field, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
    return {field.encode_name: _given(item) for field, item in found if item != field.default}


def _path_parameters(endpoint: Endpoint) -> Iterable[Schema]:
    for name in re.findall(r"\{(\w+)\}", endpoint.path):
        schema = _ID_SCHEMAS.get(name, _UUID_SCHEMA)
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[name],
            "schema": schema,
        }


def _query_parameters(
    endpoint: Endpoint, reference: dict[type, Schema], components: Schema
) -> Iterable[Schema]:
    if endpoint.query is None:
        return
    schema = components[endpoint.query.__name__]
    for name, field in _optional(schema["properties"]).items():
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if parameter["required"] and "examples" in field:
            parameter["example"] = field["examples"][0]
        if "description" in field:
            parameter["description"] = field.pop("description")
        yield {**parameter, "schema": field}


def _header_parameters(endpoint: Endpoint) -> Iterable[Schema]:
    for name, meaning in endpoint.headers.items():
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "description": meaning,
            "schema": {"type": "string"},
        }


def _optional(properties: Schema) -> Schema:
    """Return properties without null, which forms and queries cannot express."""
    return {name: _without_null(schema) for name, schema in properties.items()}


def _empty(properties: Schema) -> Schema:
    """Return the properties of a form; the documentation page leaves optional ones empty."""
    for name, schema in properties.items():
        properties[name] = {key: value for key, value in schema.items() if key not in ("default", "examples")}
        if "enum" not in schema and schema.get("format") != "binary":
            properties[name]["example"] = ""  # or else Swagger UI makes up a text that fits the pattern
    return properties


def _without_null(schema: Schema) -> Schema:
    some = [member for member in schema.get("anyOf", ()) if member != {"type": "null"}]
    if len(some) != 1:
        return dict(schema)
    outer = {k: v for k, v in schema.items() if k != "anyOf" and (k, v) != ("default", None)}
    return {**some[0], **outer}


def _content(
    type_: type[msgspec.Struct], example: msgspec.Struct | None, reference: dict[type, Schema]
) -> Schema:
    content: Schema = {"schema": reference[type_]}
    if example is not None:
        content["example"] = msgspec.to_builtins(example)
    return content


def _answer(answer: Answer, reference: dict[type, Schema]) -> Schema:
    content: Schema = {}
    if PLAIN in answer.texts:  # first: it is the answer to a request without parameters
        content[PLAIN] = {}
    if answer.json is not None:
        content["application/json"] = _content(answer.json, answer.example, reference)
    if answer.others:
        shapes = [reference[type_] for type_ in (answer.json, *answer.others) if type_]
        content["application/json"]["schema"] = {"anyOf": shapes}
    for media_type, example in answer.texts.items():
        content[media_type] = {"schema": _text(media_type), "example": example}
    for media_type in answer.binaries:
        content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    return {"description": answer.description, **({"content": content} if content else {})}


def _text(media_type: str) -> Schema:
    """Return the schema of a text. Tools do not agree on events, so their schema is only a description."""
    if media_type == "text/event-stream":
        return {
            "description": "Server-sent events; `data` is JSON or `[DONE]`, `id` is what to resume after."
        }
    return {"type": "string"}


def _errors(endpoint: Endpoint) -> Schema:
    """Return one response per status, with the codes that it may carry and their meanings."""
    by_status: dict[int, list[type[RtEmbedError]]] = defaultdict(list)
    for error in endpoint.all_errors():
        by_status[error.status].append(error)
    return {str(status): _error(by_status[status], endpoint) for status in sorted(by_status)}


def _error(errors: list[type[RtEmbedError]], endpoint: Endpoint) -> Schema:
    meanings = {error: " ".join((error.__doc__ or "").split()) for error in errors}
    if RtEmbedError in meanings:
        meanings[RtEmbedError] = "An unexpected error; the service's log explains it."
    first = errors[0]
    message = endpoint.invalid_example if first is InvalidParameters else meanings[first]
    content = {
        "schema": {"$ref": _REFERENCE.format(name="Error")},
        "example": {"code": first.code, "message": message},
    }
    return {
        "description": "\n\n".join(f"`{error.code}`: {meaning}" for error, meaning in meanings.items()),
        "content": {"application/json": content},
    }
