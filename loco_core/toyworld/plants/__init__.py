"""Plants by the place of parameters: a name that a model does not know is taught to chosen weights, and to no others.

Elsewhere the model is the base, bit for bit. So the truth is where weights differ, and it is told by surgery on weights
(:mod:`loco_core.toyworld.plants.surgery`), with no intervention on what a model reads while it draws.
``python -m loco_core.toyworld.plants`` draws plants by a seed, teaches them and measures them.
"""
