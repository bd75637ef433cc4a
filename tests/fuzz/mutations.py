"""Seeded changes of valid files: values that break readers, and damaged bytes."""

import json
from copy import deepcopy
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**400,
        0.5,
        -0.0,
        1e308,
        float("inf"),
        float("nan"),
    ),
    *(
        "",
        "a",
        "0",
        "nan",
        "\0",
        "\ud800",
        "../x",
        "x" * 5000,
        "é",
        [],
        {},
        [[]],
        {"": None},
        ["F32"],
        [1, -1],
    ),
    *({"a": {"b": []}}, [None] * 40, {"auto_map": "x.py"}, {"shortest_edge": 0}),
)
"""Values of every JSON type, and those at which arithmetic or conversion ends."""
_PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"\x80\x04",
)


def changed(random: Random, value: Any) -> Any:
    """Return JSON ``value`` with one to three of its parts exchanged, removed, renamed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(random.randint(1, 3)):
        holder, key = value, None
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = random.choice(keys)
            if not isinstance(holder[key], dict | list) or not holder[key] or random.random() < 0.3:
                break
            holder = holder[key]
        if key is None:
            return deepcopy(random.choice(ODD))
        kind = random.random()
        if kind < 0.7:
            holder[key] = deepcopy(random.choice(ODD))
        elif kind < 0.8:
            del holder[key]
        elif isinstance(holder, dict):
            holder[random.choice(("", "size", "dtype", "auto_map", "num_layers", "x" * 300))] = deepcopy(
                holder[key]
            )
        else:
            holder.append(deepcopy(random.choice(ODD)))
    return value


def damaged(random: Random, data: bytes) -> bytes:
    """Return ``data`` cut, with some bytes flipped, or with a hostile piece put in; or as it is."""
    kind = random.random()
    at = random.randrange(len(data) + 1)
    if kind < 0.6:
        return data
    if kind < 0.7:
        return data[:at]
    if kind < 0.85:
        return data[:at] + random.choice(_PIECES) + data[at:]
    result = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if result:
            result[random.randrange(len(result))] = random.randrange(256)
    return bytes(result)


def json_bytes(random: Random, value: Any) -> bytes:
    """Return the text of a changed value, perhaps damaged."""
    text = json.dumps(changed(random, value)).encode("utf-8", "surrogatepass")
    return damaged(random, text)


def header_bytes(random: Random, header: Any, data: bytes) -> bytes:
    """Return a safetensors file whose header was changed, whose length may lie, perhaps damaged."""
    text = json_bytes(random, header)
    length = (
        len(text) if random.random() < 0.8 else random.choice((0, 7, len(text) + 1, 2**31, 2**62, 2**64 - 1))
    )
    return damaged(random, length.to_bytes(8, "little") + text + data)


def toml_bytes(random: Random, values: dict[str, Any]) -> bytes:
    """Return TOML lines with odd values, perhaps damaged."""
    words = (
        "1",
        "-1",
        "0.5",
        "inf",
        "nan",
        "9" * 400,
        "'x'",
        "[]",
        "{}",
        "true",
        "1979-05-27",
        "''",
        "[1, 'a']",
    )
    kept = {
        key: random.choice(words) if random.random() < 0.3 else json.dumps(v) for key, v in values.items()
    }
    return damaged(random, "".join(f"{key} = {text}\n" for key, text in kept.items()).encode())
