"""The kinds of work: what is to be done, what follows from it, what a worker does; see `orchestrator.stages.base`."""
