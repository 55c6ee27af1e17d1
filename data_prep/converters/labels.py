"""Names of class labels: where a data set keeps the number of a class, its schema keeps what the class is called.

    names = label_names(schema.metadata)          # {"label": ["white-knight", "black-rook"]}
    with_names({"label": 0}, names)               # {"label": "white-knight"}

`datasets` writes its features as JSON into the schema of parquet and arrow files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.converters.texts import NoText

Names = Mapping[str, Sequence[str]]
KEY = b"huggingface"


def label_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes by column, as a schema's metadata tells them; none where it tells nothing."""
    try:
        features = json.loads((metadata or {}).get(KEY) or b"{}")["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return names_in(features) if isinstance(features, Mapping) else {}


def names_in(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the classes by column of features as `datasets` describes them."""
    found = {}
    for column, feature in features.items():
        inside = feature
        while isinstance(inside, Mapping) and "feature" in inside:  # of a list
            inside = inside["feature"]
        if isinstance(inside, list) and len(inside) == 1:
            inside = inside[0]
        names = inside.get("names") if isinstance(inside, Mapping) and inside.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and names:
            found[str(column)] = [str(name) for name in names]
    return found


def with_names(row: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return a row with the names of its classes; several classes of one row in one text."""
    return {**row, **{column: _named(row[column], known) for column, known in names.items() if column in row}}


def _named(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, list):
        return ", ".join(str(name) for one in value if (name := _named(one, known)) is not None)
    if not isinstance(value, int) or isinstance(value, bool) or value == -1:  # -1: no label
        return None if value == -1 else value
    if not 0 <= value < len(known):
        raise NoText(f"class {value} of {len(known)}")
    return known[value]
