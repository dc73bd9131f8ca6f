"""Keeps libraries from talking over the command line's own output."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Silences progress bars and advice of diffusers and transformers; errors still show."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for module in (diffusers.utils.logging, transformers.utils.logging):
        module.set_verbosity_error()
        module.disable_progress_bar()
