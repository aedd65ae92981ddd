"""Who sends the request that is being answered: the name of its API key."""

from contextvars import ContextVar

caller: ContextVar[str] = ContextVar("caller", default="")
"""Empty where no keys are set. Each request has its own context."""
