"""The default family: it serves pipelines of classes that nobody wrote a family for, as far as calling them tells."""
