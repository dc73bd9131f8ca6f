"""The kept images of a sweep in a browser: an index of them, the pages, and a server on loopback."""
