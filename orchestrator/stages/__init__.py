"""The steps of the chain: each derives units from what is committed, and computes what needs no worker."""

RESOLVED = "_meta/resolved.json"
"""Where a results root records what names stand for: hashes of weights, and the sites of every model."""
