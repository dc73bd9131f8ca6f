"""From the names in a sweep to revisions, hashes and sites."""
