"""Settings: `load` reads the environment once into a frozen `Settings`."""

from shared.settings.loading import Settings, load, table, worker_name

__all__ = ["Settings", "load", "table", "worker_name"]
