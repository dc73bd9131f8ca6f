"""Decides what runs where: a pure state machine, the loop that drives it, and what it asks of a backend."""
