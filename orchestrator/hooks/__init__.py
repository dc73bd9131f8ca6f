"""Hooks of a sweep, which are called while a run goes on, and messages; none of them can delay or end the run."""

LEFT_BEHIND: set[str] = set()
"""Hooks of this process that were at work when it waited no longer: their own threads would keep it from ending."""
