"""The tracers, one file each; the name of a file is the key of the tracer."""
