"""Which compiled twins are used, and what is said of those that are not."""

import sys
from types import ModuleType

import pytest

from replicator.speed import FORM, find


def installed(monkeypatch: pytest.MonkeyPatch, form: int) -> ModuleType:
    module = ModuleType("twins")
    module.FORM = form  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "twins", module)
    return module


def test_twins_of_this_form_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATOR_SPEED", raising=False)
    assert find("twins") == (None, "")
    assert find(installed(monkeypatch, FORM).__name__) == (sys.modules["twins"], "")


def test_twins_of_another_form_are_left_out_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REPLICATOR_SPEED", raising=False)
    installed(monkeypatch, FORM - 1)
    assert find("twins") == (None, "They are of another version of Replicator.")


def test_twins_that_cannot_be_loaded_are_left_out_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("REPLICATOR_SPEED", raising=False)
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_twins.py").write_text("import broken_twins_core")
    monkeypatch.syspath_prepend(str(folder))
    found, why = find("broken_twins")
    assert found is None
    assert "broken_twins_core" in why


@pytest.mark.parametrize("off", ["off", "OFF"])
def test_they_can_be_left_out_by_wish(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    monkeypatch.setenv("REPLICATOR_SPEED", off)
    installed(monkeypatch, FORM)
    assert find("twins") == (None, "")
