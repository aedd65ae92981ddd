"""The search index in PostgreSQL."""

import dataclasses

from shared.settings.setting_types import (
    SettingType,
    matching,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Search"""

    search_url: str | None = setting(
        "RTEMBED_SEARCH_URL",
        SettingType(matching(r"postgres(ql)?://.+"), "a postgresql:// URL"),
        None,
        "PostgreSQL with pgvector 0.8 or newer that holds the search index, for gateways and indexers; "
        "unset: no search",
        secret=True,
    )
    search_connections: int = setting(
        "RTEMBED_SEARCH_CONNECTIONS",
        whole(1, 200),
        8,
        "Maximum connections of one gateway to the search index",
    )
    search_timeout: float = setting(
        "RTEMBED_SEARCH_TIMEOUT", number(0.1, 300), 5.0, "Seconds that one search in the index may take"
    )
    search_candidates: int = setting(
        "RTEMBED_SEARCH_CANDIDATES",
        whole(10, 1000),
        100,
        "Chunks that a search visits in the HNSW index (hnsw.ef_search): higher means better recall "
        "and slower searches",
    )
    search_batch: int = setting(
        "RTEMBED_SEARCH_BATCH", whole(1, 10_000), 500, "Maximum messages that an indexer writes in one step"
    )
    search_index_rows: int = setting(
        "RTEMBED_SEARCH_INDEX_ROWS",
        whole(0, 10**9),
        20_000,
        "Number of chunks at which a model gets an HNSW index, once no messages wait; below, every search "
        "compares all chunks",
    )
    search_build_memory_mb: int = setting(
        "RTEMBED_SEARCH_BUILD_MEMORY_MB",
        whole(16, 1 << 20),
        512,
        "Memory of the database for building an HNSW index, in MiB (maintenance_work_mem): an index that "
        "outgrows it is built much more slowly",
    )
    max_triggers: int = setting(
        "RTEMBED_MAX_TRIGGERS",
        whole(0, 10_000),
        100,
        "Maximum number of triggers; indexers compare each new chunk with all triggers of its model",
    )
    search_max_age_hours: float = setting(
        "RTEMBED_SEARCH_MAX_AGE_HOURS",
        number(0, 10**6),
        0.0,
        "Hours after which a chunk is deleted from the search index; 0: never",
    )
    search_max_rows: int = setting(
        "RTEMBED_SEARCH_MAX_ROWS",
        whole(0, 10**12),
        0,
        "Maximum number of chunks in the search index; beyond it the oldest are deleted; 0: no limit",
    )
