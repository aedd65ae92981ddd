"""Embedding messages and error events, on Kafka or Redis."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    BOOLEAN,
    EXISTING_FILE,
    TEXT,
    TOPIC,
    choice,
    limit,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MessageSettings:
    """Messages"""

    message_bus: str | None = setting(
        "MESSAGE_BUS",
        choice("kafka", "redis", "off", ""),
        None,
        "Where embedding messages go, empty: nowhere; unset: Kafka if KAFKA_ENABLED, else nowhere",
        empty=True,
    )
    message_topic: str | None = setting(
        "MESSAGE_BUS_TOPIC",
        TOPIC,
        None,
        "Kafka topic or Redis stream of embedding messages; unset: KAFKA_TOPIC on Kafka, mdx-embed on Redis",
    )
    error_bus: str | None = setting(
        "ERROR_BUS",
        choice("kafka", "redis", "off", ""),
        None,
        "Where error events go, empty: nowhere; unset: Redis if ENABLE_REDIS_ERROR_MESSAGES, else Kafka if "
        "the messages go there, else nowhere",
        empty=True,
    )
    error_topic: str = setting(
        "ERROR_MESSAGE_TOPIC", TOPIC, "mdx-embed-errors", "Kafka topic or Redis channel of error events"
    )
    kafka_enabled: bool = setting("KAFKA_ENABLED", BOOLEAN, False, "Send messages to Kafka")
    kafka_topic: str = setting(
        "KAFKA_TOPIC", TEXT, "mdx-embed", "Kafka topic of embedding messages, if MESSAGE_BUS_TOPIC is unset"
    )
    redis_errors: bool = setting(
        "ENABLE_REDIS_ERROR_MESSAGES", BOOLEAN, False, "Send error events to Redis instead of Kafka"
    )
    text_messages: bool = setting(
        "ENABLE_KAFKA_MESSAGES_FOR_TEXT_INPUT", BOOLEAN, False, "Also send a message for each text"
    )
    outbox_limit: int = setting(
        "KAFKA_ASYNC_SEND_QUEUE_MAXSIZE",
        limit(100_000),
        100_000,
        "Messages of the whole fleet that wait for the bus, in Redis; beyond it new ones are dropped",
    )
    outbox_bytes: int = setting(
        "RTEMBED_OUTBOX_MAX_BYTES",
        whole(0, 2**50),
        1 << 30,
        "Approximate limit of their memory in Redis, in bytes; beyond it new ones are dropped; 0: no limit",
    )
    error_queue_limit: int = setting(
        "REDIS_ASYNC_PUBLISH_QUEUE_MAXSIZE",
        limit(1024),
        1024,
        "Error events of one process that wait to be sent; beyond it new ones are dropped",
    )
    redis_payload_key: str = setting(
        "REDIS_PAYLOAD_KEY", TEXT, "metadata", "Field of a Redis stream entry that holds the message"
    )
    redis_stream_maxlen: int = setting(
        "REDIS_STREAM_MAXLEN",
        whole(-(2**31), 2**31),
        10_000,
        "About how many messages the Redis stream keeps; 0 or less: all",
    )

    kafka_servers: str = setting(
        "KAFKA_BOOTSTRAP_SERVERS", TEXT, "", "Brokers, host:port, separated by commas; empty: no Kafka"
    )
    kafka_compression: str = setting(
        "KAFKA_COMPRESSION_TYPE",
        choice("none", "gzip", "snappy", "lz4", "zstd"),
        "none",
        "Compression of batches; vectors hardly compress",
    )
    kafka_linger_ms: int = setting(
        "KAFKA_LINGER_MS",
        whole(0, 60_000),
        5,
        "Milliseconds that a batch of fewer than 16 messages waits for more",
    )
    kafka_batch_size: int = setting(
        "KAFKA_BATCH_SIZE", whole(1, 100 * 2**20), 256 * 2**10, "Largest batch for one partition in bytes"
    )
    kafka_max_request_size: int = setting(
        "KAFKA_MAX_REQUEST_SIZE",
        whole(1000, 10**9),
        2**20,
        "Largest message in bytes; keep it at or below the broker's message.max.bytes",
    )
    kafka_request_timeout: float = setting(
        "KAFKA_REQUEST_TIMEOUT", number(1, 600), 60.0, "Seconds that a broker has to answer"
    )
    kafka_security: str = setting(
        "KAFKA_SECURITY_PROTOCOL",
        choice("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
        "plaintext",
        "How to connect to the brokers",
    )
    kafka_sasl_mechanism: str = setting(
        "KAFKA_SASL_MECHANISM",
        choice("plain", "scram-sha-256", "scram-sha-512"),
        "plain",
        "How to log in, with a SASL protocol",
    )
    kafka_username: str | None = setting("KAFKA_SASL_USERNAME", TEXT, None, "User of Kafka")
    kafka_password: str | None = setting(
        "KAFKA_SASL_PASSWORD", TEXT, None, "Password of KAFKA_SASL_USERNAME", secret=True
    )
    kafka_ca_file: Path | None = setting(
        "KAFKA_SSL_CAFILE",
        EXISTING_FILE,
        None,
        "Certificate authorities of the brokers, PEM; unset: the system's",
    )
    kafka_certificate: Path | None = setting(
        "KAFKA_SSL_CERTFILE", EXISTING_FILE, None, "Certificate of this client, PEM, for mutual TLS"
    )
    kafka_key: Path | None = setting(
        "KAFKA_SSL_KEYFILE", EXISTING_FILE, None, "Private key of KAFKA_SSL_CERTFILE, PEM"
    )
    kafka_key_password: str | None = setting(
        "KAFKA_SSL_PASSWORD", TEXT, None, "Password of the private key", secret=True
    )
    kafka_check_hostname: bool = setting(
        "KAFKA_SSL_CHECK_HOSTNAME", BOOLEAN, True, "Whether the broker's certificate must name its host"
    )
