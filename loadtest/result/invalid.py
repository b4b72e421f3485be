"""Describe the errors of a document in one line."""

from __future__ import annotations

from pydantic import ValidationError


def reason(error: ValidationError) -> str:
    """Return the first error, and the number of further ones."""
    first, *more = error.errors(include_url=False, include_input=False)
    place = ".".join(map(str, first["loc"]))
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return f"{message} (and {len(more)} more)" if more else message
