"""`platodef defences`: the tables of defences for those who choose one."""

import json

from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from tests.unit.cli.calls import Call


def test_every_row_says_what_it_needs_and_when_to_choose_it(platodef: Call) -> None:
    done = platodef("defences")
    assert done.code == 0
    header, *lines = done.out.splitlines()
    assert header.split() == ["kind", "name", "needs", "use", "when"]
    rows = [(table, name) for table in (DETECTORS, ENCODER_DETECTORS, PURIFIERS) for name in table.names()]
    assert len(lines) == len(rows)
    for line, (table, name) in zip(lines, rows, strict=True):
        kind = table.load(name)
        assert line.startswith(table.kind)
        assert line[len(table.kind) :].split()[0] == name
        assert line.endswith(kind.use_when)
        assert all(f"{access.value}" in line for access in kind.needs)
    assert done.last == (
        f"OK (0): {len(DETECTORS.names())} detectors, {len(ENCODER_DETECTORS.names())} encoder detectors, "
        f"{len(PURIFIERS.names())} purifiers"
    )


def test_json_has_the_same_and_the_description(platodef: Call) -> None:
    entries = {
        (entry["kind"], entry["name"]): entry for entry in json.loads(platodef("defences", "--json").out)
    }
    assert entries["purifier", "zip"] == {
        "kind": "purifier",
        "name": "zip",
        "needs": ["images"],
        "use_when": PURIFIERS.load("zip").use_when,
        "description": PURIFIERS.load("zip").description,
        "error": None,
    }
    assert entries["detector", "beatrix"]["needs"] == ["features", "images", "internals"]
