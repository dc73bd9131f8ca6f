"""Whether an edited attribute is gone or only hidden: attacks that try to bring it back."""
