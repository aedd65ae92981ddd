"""Changing, at run time, where messages and error events go."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.stream_schemas import Configuration, Configured
from gateway.api.validation import validate_json
from gateway.context import context, json, read_body
from shared.bus.routes import Switch, switch_routes
from shared.errors import BadRequest

MOST_WARNINGS = 16
LONGEST_WARNING = 2048


async def configure(request: Request) -> Response:
    """Switch the whole fleet to other buses or topics. Raises BadRequest for what cannot be used."""
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
    return json(answer)
