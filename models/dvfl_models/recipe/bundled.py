"""The recipes that come with the package; needs nothing but the standard library."""

from __future__ import annotations

from importlib import resources

FOLDER = resources.files("dvfl_models") / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes, sorted; not of those that are a base alone."""
    names = [entry.name[:-5] for entry in FOLDER.iterdir() if entry.name.endswith(".toml")]
    return sorted(name for name in names if name[0] != "_")


def recipe_text(name: str) -> str:
    """Return the TOML text of a bundled recipe.

    Raises:
        OSError: if no bundled recipe has this name.
    """
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
