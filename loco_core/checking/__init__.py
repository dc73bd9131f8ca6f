"""Checks of a loaded model: the engine against the pipeline alone, pictures, cost, and what the scorer sees in them."""
