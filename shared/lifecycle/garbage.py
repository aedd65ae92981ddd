"""What a process does with its garbage collector once it is ready to serve."""

import gc


def settle() -> None:
    """Keep what was made at the start out of garbage collections: going through all modules and settings
    again would make a request wait now and then, for nothing."""
    gc.collect()
    gc.freeze()
