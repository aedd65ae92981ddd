"""Where a camera's track is asked for (RFC 2326, appendix C.1.1), in the forms that cameras understand."""

import re

_PATH = re.compile(r"[/?#]")
_ABSOLUTE = re.compile(r"rtsps?://", re.IGNORECASE)


def base_address(url: str, *given: str) -> str:
    """Return what a description's relative addresses build on: the first usable one of the `given` headers
    Content-Base and Content-Location, or else the `url` that was asked for."""
    for text in given:
        if _ABSOLUTE.match(text):
            return text
        if text.startswith("/"):
            return origin(url) + text
    return url


def control_addresses(base: str, url: str, control: str) -> list[str]:
    """Return the addresses under which a track or the session may be controlled, the most likely one first.

    An address with a query has two: the control name after all of it, as most clients send it, and after the
    path. `base` may have lost the query of the `url` that was asked for.
    """
    if control in ("", "*"):
        return list(dict.fromkeys([base, url]))
    if _ABSOLUTE.match(control):
        here = origin(url) + control[len(origin(control)) :]
        return list(dict.fromkeys([control, here]))
    query = url.partition("?")[2]
    found = []
    for start in (base, url):
        path, _, own = start.rstrip("/").partition("?")
        if control.startswith("?"):
            found.append(start + control)
        found += [_join(start, control), _join(path, control) + (f"?{own}" if own else "")]
        if query and not own:
            found.append(f"{_join(path, control)}?{query}")
    if control.startswith("/"):
        found.append(origin(url) + control)
    return list(dict.fromkeys(found))


def _join(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name.lstrip('/')}"


def origin(url: str) -> str:
    """Return scheme, host and port of an address."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{_PATH.split(rest, maxsplit=1)[0]}"
