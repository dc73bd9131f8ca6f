"""Attacks: whether what an edit removed is gone or only hidden."""
