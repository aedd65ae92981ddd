"""Tables of the search index as a backup names them."""

import msgspec


class IndexTable(msgspec.Struct, frozen=True):
    """A table that was copied: its columns and how many rows it had."""

    name: str
    columns: list[str]
    rows: int
