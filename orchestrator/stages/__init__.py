"""The steps of the chain: each derives units from what is committed, and computes what needs no worker."""
