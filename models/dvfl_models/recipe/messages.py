"""Errors in a recipe, in words."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from dvfl_models.recipe import tables
from dvfl_runtime.clips.spec import ClipSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KINDS: Mapping[str, type[BaseModel]] = {
    "synthetic": tables.SyntheticTable,
    "order": tables.OrderTable,
    "pretext": tables.PretextTable,
    "videos": tables.VideosTable,
}
TABLES: Mapping[str, Sequence[str]] = {
    "clip": [field.name for field in dataclasses.fields(ClipSpec)],
    "model": list(tables.ModelTable.model_fields),
    "optim": list(tables.OptimTable.model_fields),
    "augment": list(tables.AugmentTable.model_fields),
    "distill": list(tables.DistillTable.model_fields),
}


def in_words(error: ErrorDetails, top: Sequence[str]) -> str:
    """Return an error of pydantic as "key: what is wrong with it".

    Args:
        error: one of a validation.
        top: names of the keys and tables at the top of a recipe.
    """
    place = [str(part) for part in error["loc"]]
    kind = next((part for part in place[2:3] if part in KINDS), "")  # as in train.0.videos
    if kind:
        del place[2]  # pydantic adds the kind, which is no part of the path in the file
    where, found = ".".join(place) or "recipe", error["type"]
    if found == "extra_forbidden":
        *table, key = place
        known = KINDS[kind].model_fields if kind else TABLES.get(place[0], top)
        return ": ".join([*filter(None, [".".join(table)]), unknown(key, list(known), table)])
    if found == "missing":
        return f"{where} is missing"
    if found in ("union_tag_invalid", "union_tag_not_found"):
        return f"{where}.kind must be one of {', '.join(KINDS)}"
    if found == "value_error":  # raised by our validators, whose text has the value
        reason = error["msg"].removeprefix("Value error, ")
        return f"{where}: {reason}" if place else reason
    return f"{where}: {error['msg']}, got {reprlib.repr(error['input'])}"


def unknown(key: str, known: Sequence[str], table: Sequence[str]) -> str:
    """Return that there is no such key, and which one may be meant, here or in another table.

    Args:
        key: as it was written.
        known: the keys of its table.
        table: path of its table, such as ["train", "0"].
    """
    here = {name: ".".join([*table, name]) for name in known}
    elsewhere = {name: f"{other}.{name}" for other, names in TABLES.items() for name in names}
    for places, cutoff in ((elsewhere, 1.0), (here, 0.6), (elsewhere, 0.6)):
        if near := difflib.get_close_matches(key, places, 1, cutoff):
            return f"there is no {key!r}; did you mean {places[near[0]]}?"
    return f"there is no {key!r}; known are: {', '.join(sorted(known))}"
