from __future__ import annotations

import pytest

from loco_core.diffusion.model import LoadedModel
from loco_core.testing.editors import EditorContract


class Bundled(EditorContract):
    @pytest.fixture(scope="class")
    def model(self, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class TestLocoEdit(Bundled):
    editor = "loco_edit"


class TestNeurons(Bundled):
    editor = "neurons"


class TestUCE(Bundled):
    editor = "uce"


class TestSPEED(Bundled):
    editor = "speed"


class TestRECE(Bundled):
    editor = "rece"
