"""The hooks of this project, one file each; the file's name is the key."""
