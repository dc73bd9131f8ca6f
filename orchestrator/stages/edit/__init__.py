"""Edits: fitted where something was localized, and measured beside their baselines."""
