"""Traces: what is observed while the sweep's own prompts are drawn."""
