"""Files for kinds of clusters, to be filled in; `loco-sweep init` writes them out. Nothing imports this."""
