"""The machine of loco-sweep: what runs where, and what is already done."""

__version__ = "0.1.0"
