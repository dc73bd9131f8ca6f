"""The families of models, one file each; the name of a file is the key of the family."""
