"""Changing where messages and error events are sent, at run time."""

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.responses import json_response
from gateway.api.stream_schemas import Configuration, Configured, Routing, RoutingEvent
from gateway.api.validation import validate_json
from gateway.context import context
from gateway.handling.body import read_body
from shared.bus.routes import Switch, switch_routes
from shared.errors import BadRequest, FileTooLarge, Unavailable

MOST_WARNINGS = 16
LONGEST_WARNING = 2048


@Endpoint(
    "POST",
    "/v1/config",
    aliases=(("POST", "/api/v1/config"),),
    tag="Config",
    admin=True,
    summary="Change where messages and error events are sent",
    description=(
        "Applies at once to the whole fleet. `topic-prefix` is the full name of a topic or stream. Needs an "
        "administrator's key where there are some."
    ),
    body=Configuration,
    body_example=Configuration(
        alert_type="config",
        created_at="2023-03-10T00:45:16Z",
        txn_id="f03ef248-2ec0-4a99-aeb5-938bd075bada",
        source="vios",
        event=RoutingEvent(
            change="config",
            metadata=Routing(messagingbus="kafka", topic_prefix="mdx-embed", create_topic=True),
        ),
    ),
    invalid_example="('body', 'alert_type'): Field required",
    answers=(
        Answer(
            description="The routing in force; fields that do not apply are left out.",
            json=Configured,
            example=Configured(
                txn_id="f03ef248-2ec0-4a99-aeb5-938bd075bada",
                status="updated",
                messagingbus="kafka",
                topic="mdx-embed",
                source="vios",
                created_at="2023-03-10T00:45:16Z",
            ),
        ),
    ),
    errors=(BadRequest, FileTooLarge, Unavailable),
)
async def configure(request: HttpRequest) -> Response:
    """Switch the whole fleet to other buses or topics. Raises BadRequest if they cannot be used."""
    ctx = context(request)
    body = validate_json(await read_body(request), Configuration)
    for field, value in (("alert_type", body.alert_type), ("change", body.event.change)):
        if value != "config":
            raise BadRequest(f"{field} must be config, not {value}")
    wanted = body.event.metadata
    routes, warnings = await switch_routes(
        ctx.redis,
        ctx.settings,
        Switch(
            message_bus=wanted.messagingbus,
            message_topic=wanted.topic_prefix,
            error_bus=wanted.errorbus,
            error_topic=wanted.error_topic_prefix,
            create_topic=wanted.create_topic,
            partitions=wanted.topic_partition or 1,
        ),
    )
    has_errors = wanted.errorbus or wanted.error_topic_prefix
    answer = Configured(
        txn_id=body.txn_id,
        status="updated",
        messagingbus=wanted.messagingbus,
        topic=routes.message_topic,
        source=body.source,
        created_at=body.created_at,
        errorbus=routes.error_bus if has_errors and routes.error_bus != "off" else None,
        error_topic=routes.error_topic if has_errors else None,
        warnings=[warning[:LONGEST_WARNING] for warning in warnings[:MOST_WARNINGS]] or None,
    )
    return json_response(answer)
