"""An edit while it is in a model."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.deltas import WeightDelta, applied


class AppliedEdit:
    """An edit that is in a model now; leaves it with `undo`, or at the end of a ``with`` block."""

    def __init__(self, model: LoadedModel, edit: WeightDelta, weights: str | None) -> None:
        """Applies an edit.

        Args:
            model: the model.
            edit: the edit.
            weights: hash of the model's weights; None takes for granted that they are those of the edit.

        Raises:
            EditError: the edit does not fit the model.
        """
        self._stack = ExitStack()
        self._stack.enter_context(applied(model, edit, weights))

    def undo(self) -> None:
        """Restores every bit; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> AppliedEdit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()
