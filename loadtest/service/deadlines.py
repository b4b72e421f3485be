"""The deadlines of the clients whose streams are measured."""

from __future__ import annotations

from earshot import Timeouts

NO_RESUMING = Timeouts(resume_s=0)
"""A stream that loses its server has failed, and counts as such."""
