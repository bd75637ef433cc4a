"""Texts that try to break out of a report, and reports that hold them everywhere."""

import json

from platodef_cli.records import AuditReport

HOSTILES = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='\" ]]> --> <!-- </title></style></svg><base href=//evil.example>",
    "a\u202egnp.exe\u2066\u200b\ufeff \x1b[2J\x00\x07\x85\r\n\ttab \u2028",
    "W" * 5000,
    "</p></td></table></main></body></html>&lt;&#60;&amp;",
    "\u65e5\u672c\u8a9e \u05e9\u05dc\u05d5\u05dd \U0001f642 $\\frac{1}{2}$ label0end {x} var(--s1) #010101",
)
TEXTS = {
    "ansi": "\x1b[2J\x1b[31mred\x1b]8;;http://evil.example\x07click\x1b]8;;\x07 \u009b31m",
    "rich": "[red]x[/red] [link=http://evil.example]x[/link] [/] :boom:",
    "markdown-link": "[text](javascript:alert(1)) <http://evil.example> http://evil.example "
    "www.evil.example a@b.c",
    "markdown-image": "![x](http://evil.example/x.png) ![x][1]\n\n[1]: http://evil.example",
    "markdown-table": "a | b |\n|---|---|\n| c | d |",
    "markdown-blocks": "# heading\n- item\n1. one\n> [!NOTE]\n***\n```\ncode\n~~~\n    indented",
    "markdown-inline": "**bold** _it_ ~~no~~ `code` $x$ \\ \\[ [ ] [^1] <!-- x --> &copy; &#60;b&#62;",
    "mentions": "@everyone @org/team #1 org/repo#1 GH-1 gh-2 x@y",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)> "
    "</style></title><b>",
    "xml": "]]> <!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]> &y; <?x?> \x00\x0b\ufffe\uffff",
    "bidi": "\u202egnp.exe\u202c \u2066x\u2069 \u200b\u200f\ufeff \U000e0041",
    "surrogates": "\ud800 \udcff\udc00 a\udfff",
    "long": "A" * 100_000,
    "long-hostile": "@\u202e|" * 33_000,
    "lines": "one\ntwo\r\nthree\u2028four\u2029five\x85six\x0c",
    "braces": "{0} {x!r} %s %(x)s ${HOME} $(id) `id` {{ x }} {% x %}",
    "empty": "",
    "spaces": "   ",
}
_KEEP = {
    "verdict", "outcome", "severity", "status", "role", "kind", "measure", "direction", "positive", "origin",
    "schema_version", "picture", "fit", "crop", "part", "examples", "originals", "space",
}  # fmt: skip


def _poison(value: object, text: str) -> object:
    if isinstance(value, dict):
        return {key: item if key in _KEEP else _poison(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [_poison(item, text) for item in value]
    return text if isinstance(value, str) else value


def poisoned(report: AuditReport, text: str) -> AuditReport:
    """Return the report with ``text`` as every free string and as keys of every free mapping."""
    value = json.loads(report.model_dump_json())
    changed = _poison(value, text)
    assert isinstance(changed, dict)
    for name in ("configuration", "libraries", "policy"):
        changed[name] = {text: text}
    for histogram in changed["histograms"]:
        counts = list(histogram["counts"].values())
        histogram["counts"] = {f"{text}{number}": entry for number, entry in enumerate(counts)}
    for probe in changed["probes"]:
        probe["auroc"] = {text: next(iter(probe["auroc"].values()))}
        probe["control_collapse"] = {text: 0.1}
        probe["parameters"] = {text: text}
    for number, record in enumerate(changed["alignment"]):
        record["second"] = f"{text}{number}"
    return AuditReport.model_validate(changed)
