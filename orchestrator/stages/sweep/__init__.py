"""The sweep: windows swapped, pictures scored."""
