"""Say in one line what is wrong with a document."""

from __future__ import annotations

from pydantic import ValidationError


def reason(error: ValidationError) -> str:
    """Return the first thing that is wrong, and how many more there are."""
    first, *more = error.errors(include_url=False, include_input=False)
    place = ".".join(map(str, first["loc"]))
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return f"{message} (and {len(more)} more)" if more else message
