"""The probe: how many rows a forward pass of a model should carry."""
