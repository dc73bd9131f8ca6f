"""The search for the settings of an edit."""
