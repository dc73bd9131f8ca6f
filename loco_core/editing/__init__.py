"""From prompts and their donors to new weights."""
