"""How each part of the bundled model is trained; ``python -m loco_core.toyworld.train`` runs them in order."""
