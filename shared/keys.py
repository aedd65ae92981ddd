"""Every key in Redis, spelled once."""

from typing import Literal

Lane = Literal["text", "probe", "video", "live"]
LANES: tuple[Lane, ...] = ("text", "probe", "video", "live")

TAG = "{rtembed}"
"""Puts every key that contains it into one hash slot, so that scripts run on a cluster-mode server."""
PREFIX = f"{TAG}:"
"""Of every key."""
GROUP = "workers"
"""The consumer group of every lane."""

PULSE = PREFIX + "pulse"
"""Hash with a time to live: when a gateway or worker last wrote to Redis, and since when without a gap,
in ms."""
REPLICATED = PREFIX + "replicated"
"""String with a time to live: written before replicas are waited for."""
JOBS_DEAD = PREFIX + "jobs:dead"
ASSETS = PREFIX + "assets"
"""Sorted set of asset ids by creation."""
TEMPORARY_ASSETS = PREFIX + "assets:temporary"
"""Sorted set of the ids of assets that may belong to one request and go with it, by their making."""
AGED_OUT_ASSETS = PREFIX + "assets:aged-out"
"""Sorted set of the ids of the assets that were evicted last, by when."""
CAMERAS = PREFIX + "cameras"
"""Hash: the asset of each camera that was added with its own id."""
LIVE_MOVES = PREFIX + "live:moves"
"""Sorted set with a time to live: streams whose sessions move to another worker, by the second at which each
move is given up."""
ARRIVING_ASSETS = PREFIX + "assets:arriving"
"""Sorted set of ids whose files are being moved to their place, by the second at which the claim expires."""
INCOMING_FOLDERS = PREFIX + "assets:incoming"
"""Sorted set of folders that are being written, by the second at which each one's lease expires."""
INCOMING_BYTES = PREFIX + "assets:incoming:bytes"
"""Hash: bytes written so far into each upload to a bucket, which shows no object before it is complete."""
BYTES_WRITTEN = PREFIX + "assets:written"
"""Counter: all bytes ever written into the asset store."""
EVICTION = PREFIX + "assets:evicting"
"""Lock of the process that evicts assets."""
WORKERS = PREFIX + "workers"
"""Sorted set of worker names, scored by the second at which each record expires."""
MODEL = PREFIX + "model"
"""The last model that a worker announced; outlives the workers."""
MODELS = PREFIX + "models"
"""Sorted set of the ids of the models that have lanes, by the second at which each was last announced."""

SEARCH_DELETED = PREFIX + "search:deleted"
"""Sorted set of the ids of deleted assets that the search index still holds, by when they went."""
INDEXERS = PREFIX + "indexers"
"""Sorted set of the names of indexers, scored by the second at which each record expires."""

OUTBOX = PREFIX + "outbox"
"""Stream: messages that wait for their bus's acknowledgement."""
PUBLISHERS = "publishers"
"""The consumer group of the outbox."""
OUTBOX_DEAD = PREFIX + "outbox:dead"
"""Stream: messages that the bus refuses, with the last error."""
OUTBOX_COUNTS = PREFIX + "outbox:counts"
"""Hash: how many messages were sent, dropped and refused since the counts began."""
ROUTES = PREFIX + "routes"
"""Hash: where messages and events go, as far as it was changed at run time."""

REQUEST_COUNTS = PREFIX + "requests:counts"
"""Hash: how many requests ended, by lane and state (`video:done`), since the counts began."""
GPU_SAMPLES = PREFIX + "gpu:samples"
"""Stream with a time to live: how busy each GPU is, five times a second, while requests are profiled."""
METRICS = PREFIX + "metrics"
"""Hash: counters summed over all processes, past ones too, by sample."""
METRICS_SOURCES = PREFIX + "metrics:sources"
"""Sorted set of the processes that measure, scored by the second at which each one's gauges expire."""


def running(lane: str) -> str:
    """Sorted set: requests of the lane that have not ended, scored by the second at which each expires."""
    return f"{PREFIX}requests:running:{lane}"


def gauges(source: str) -> str:
    """Hash with a time to live: what one process measures now."""
    return f"{PREFIX}metrics:{source}"


def jobs(lane: Lane, model: str = "") -> str:
    """Return the stream of one lane: each model has its own, but for probes, for which any worker will do."""
    return f"{PREFIX}jobs:{lane}:{model}" if model else f"{PREFIX}jobs:{lane}"


def request(request_id: str) -> str:
    """Hash: state, model, options, chunks planned and done, created, finished."""
    return f"{PREFIX}request:{request_id}"


def results(request_id: str) -> str:
    """Stream: one entry per finished chunk, then one end entry."""
    return f"{PREFIX}results:{request_id}"


def done(request_id: str) -> str:
    """Bitmap: which chunks have their result stored."""
    return f"{PREFIX}request:{request_id}:done"


def notify(request_id: str) -> str:
    """Pub/sub channel that carries each entry added to the results stream."""
    return f"{PREFIX}notify:{request_id}"


def asset(asset_id: str) -> str:
    """Hash: the asset's record."""
    return f"{PREFIX}asset:{asset_id}"


def asset_users(asset_id: str) -> str:
    """Sorted set: requests that hold the asset, scored by the second at which each lease expires."""
    return f"{PREFIX}asset:{asset_id}:users"


def rate(client: str) -> str:
    """Hash with a time to live: how many requests a client may send at once now."""
    return f"{PREFIX}rate:{client}"


def worker(name: str) -> str:
    """Hash with a time to live: what the worker is, runs and has done."""
    return f"{PREFIX}worker:{name}"


def indexer(name: str) -> str:
    """Hash with a time to live: what an indexer does, and how far behind it is."""
    return f"{PREFIX}indexer:{name}"


def reader(asset_id: str) -> str:
    """String with a time to live: the client that reads the event stream of this asset."""
    return f"{PREFIX}asset:{asset_id}:reader"


def camera(asset_id: str) -> str:
    """Hash: how to log in to a camera, and where it stands."""
    return f"{PREFIX}asset:{asset_id}:camera"


def live(stream_id: str) -> str:
    """Hash: the running live session of a stream: owner, request, settings, last chunk."""
    return f"{PREFIX}live:{stream_id}"
