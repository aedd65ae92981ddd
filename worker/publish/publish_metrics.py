"""What is measured of messages on their way to Kafka."""

import asyncio
import time

from shared.telemetry import instruments
from shared.telemetry.export import continued, record_span


def observe_sent(answer: asyncio.Future[None], began: float, topic: str, parent: bytes) -> None:
    """Record what Kafka answered to a message sent at `began`, for the request of the span `parent`."""
    if answer.cancelled() or answer.exception():
        return
    now = time.monotonic()
    instruments.kafka_acknowledgement.record(now - began)
    with continued(parent.decode()):
        record_span("Kafka Publish", began, now, {"messaging.destination.name": topic})
