from pathlib import Path

from dvfl_runtime.files import cache_folder


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DVFL_CACHE_DIR", "/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/chosen")
    monkeypatch.delenv("DVFL_CACHE_DIR")
    assert cache_folder() == Path("/xdg/dvfl")
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cache_folder() == Path.home() / ".cache" / "dvfl"
