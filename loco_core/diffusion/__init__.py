"""Diffusers pipelines: loading, cross-attention sites, swaps at them, pictures."""
