"""What is observed while a model draws, beside what swapping windows changes."""
