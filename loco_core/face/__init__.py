"""The public face of `loco_core`: what a person calls from Python; see the names in `loco_core` itself."""
