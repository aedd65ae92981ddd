"""Metrics of messages on their way to Kafka."""

import asyncio
import time
from collections.abc import Sequence

from shared.telemetry import instruments
from shared.telemetry.export import continued, record_span


def observe_sent(answer: asyncio.Future[None], began: float, topic: str, parents: Sequence[bytes]) -> None:
    """Record Kafka's answers to messages sent at `began`, as children of the spans `parents`."""
    if answer.cancelled() or answer.exception():
        return
    now = time.monotonic()
    for parent in parents:
        instruments.kafka_acknowledgement.record(now - began)
        if parent:
            with continued(parent.decode()):
                record_span("Kafka Publish", began, now, {"messaging.destination.name": topic})
