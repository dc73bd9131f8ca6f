"""The bundled world, its trained models, and the planted ones whose truth is known."""
