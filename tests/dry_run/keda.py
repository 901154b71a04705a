"""What KEDA's `metrics-api` scaler reads, by the trigger in the manifests.

https://keda.sh/docs/2.16/scalers/metrics-api/: an HTTP GET of `url`, and in its JSON the number at `valueLocation`, a
path in GJSON's language (https://github.com/tidwall/gjson/blob/master/SYNTAX.md).
"""

from __future__ import annotations

import json
import re
import urllib.request
from urllib.parse import urlsplit, urlunsplit

from contract.manifests import Document

_PART = re.compile(r"#\((\w+)==\"([^\"]*)\"\)|([^.#|@\\*?]+)")


def value_at(document: object, path: str) -> object:
    """The value at a GJSON path, of which this knows keys, indexes, and `#(key=="text")`: the first element with it.

    Raises `ValueError` for any other syntax, and where there is no such value.
    """
    position = 0
    while position < len(path):
        part = _PART.match(path, position)
        if part is None:
            raise ValueError(f"'{path}' has syntax at {position} that is not understood here")
        document = _step(document, part, path)
        position = part.end()
        if position < len(path):
            if path[position] != ".":
                raise ValueError(f"'{path}' has syntax at {position} that is not understood here")
            position += 1
    return document


def _step(document: object, part: re.Match[str], path: str) -> object:
    key, text, name = part.groups()
    match document:
        case list() if key:
            for element in document:
                if isinstance(element, dict) and element.get(key) == text:
                    return element
        case list() if name and name.isdigit() and int(name) < len(document):
            return document[int(name)]
        case dict() if name in document:
            return document[name]
    raise ValueError(f"there is nothing at '{part[0]}' of '{path}'")


def metric_of(trigger: Document, netloc: str) -> float:
    """The trigger's value, asked of `netloc` in place of the address in the cluster."""
    assert trigger["type"] == "metrics-api"
    metadata = trigger["metadata"]
    url = urlunsplit(urlsplit(metadata["url"])._replace(netloc=netloc))
    with urllib.request.urlopen(url, timeout=5) as answer:
        document = json.load(answer)
    value = value_at(document, metadata["valueLocation"])
    assert isinstance(value, (int, float))
    return float(value)
