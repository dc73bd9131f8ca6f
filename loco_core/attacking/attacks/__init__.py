"""The attacks, one file each; see `loco_core.attacking.base`."""
