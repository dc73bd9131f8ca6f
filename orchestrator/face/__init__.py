"""The public face of `orchestrator`: what a person calls from Python, and the command line too."""
