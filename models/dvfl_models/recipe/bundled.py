"""The recipes that come with the package; needs nothing but the standard library."""

from __future__ import annotations

from importlib import resources


def recipe_names() -> list[str]:
    """Their names, sorted."""
    folder = resources.files("dvfl_models") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of one.

    Raises:
        OSError: if there is none of this name.
    """
    file = resources.files("dvfl_models") / "recipes" / f"{name}.toml"
    return file.read_text(encoding="utf-8")
