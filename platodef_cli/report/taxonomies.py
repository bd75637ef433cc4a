"""Where a check stands in public taxonomies: one table for JSON, SARIF, HTML and bills of material.

Sources: MITRE ATLAS 5 (https://atlas.mitre.org), OWASP Machine Learning Security Top 10 2023, OWASP Top 10
for Large Language Model Applications 2025, Common Weakness Enumeration 4.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from platodef_cli.records import Finding, Reason, TaxonomyRecord
from platodef_cli.report.checks import check_of

VERSION = "2"
"""Of the table below; a change of an entry or of a mapping is a new one."""
Scheme = Literal["ATLAS", "OWASP-ML", "OWASP-LLM", "CWE"]
FORMS: dict[Scheme, re.Pattern[str]] = {
    "ATLAS": re.compile(r"AML\.(T\d{4}(\.\d{3})?|M\d{4})"),
    "OWASP-ML": re.compile(r"ML(0[1-9]|10):20\d\d"),
    "OWASP-LLM": re.compile(r"LLM(0[1-9]|10):20\d\d"),
    "CWE": re.compile(r"CWE-[1-9]\d{0,4}"),
}
"""What a well-formed id of each taxonomy looks like."""


@dataclass(frozen=True)
class Taxonomy:
    """A public taxonomy.

    Attributes:
        name: Its name in reports.
        organization: Who keeps it.
        uri: Where it is.
        release: Edition that the ids are of.
    """

    name: Scheme
    organization: str
    uri: str
    release: str


TAXONOMIES = (
    Taxonomy("ATLAS", "MITRE", "https://atlas.mitre.org", "5"),
    Taxonomy("OWASP-ML", "OWASP", "https://owasp.org/www-project-machine-learning-security-top-10/", "2023"),
    Taxonomy("OWASP-LLM", "OWASP", "https://genai.owasp.org/llm-top-10/", "2025"),
    Taxonomy("CWE", "MITRE", "https://cwe.mitre.org", "4"),
)


@dataclass(frozen=True)
class Taxon:
    """One entry of a taxonomy.

    Attributes:
        id: Its id there.
        name: Its title there.
        scheme: The taxonomy.
        uri: Its own page.
        mitigation: It is what helps, not what is wrong.
    """

    id: str
    name: str
    scheme: Scheme
    uri: str
    mitigation: bool = False


def _atlas(identity: str, name: str) -> Taxon:
    kind = "mitigations" if ".M" in identity else "techniques"
    return Taxon(identity, name, "ATLAS", f"https://atlas.mitre.org/{kind}/{identity}", kind == "mitigations")


def _cwe(number: int, name: str) -> Taxon:
    return Taxon(f"CWE-{number}", name, "CWE", f"https://cwe.mitre.org/data/definitions/{number}.html")


def _owasp(identity: str, name: str) -> Taxon:
    if identity.startswith("LLM"):
        return Taxon(identity, name, "OWASP-LLM", TAXONOMIES[2].uri)
    return Taxon(identity, name, "OWASP-ML", TAXONOMIES[1].uri)


TAXA: dict[str, Taxon] = {
    taxon.id: taxon
    for taxon in (
        _atlas("AML.T0010.003", "AI Supply Chain Compromise: Model"),
        _atlas("AML.T0011.000", "User Execution: Unsafe AI Artifacts"),
        _atlas("AML.T0018.000", "Manipulate AI Model: Poison AI Model"),
        _atlas("AML.T0018.002", "Manipulate AI Model: Embed Malware"),
        _atlas("AML.T0043.004", "Craft Adversarial Data: Insert Backdoor Trigger"),
        _atlas("AML.T0058", "Publish Poisoned Models"),
        _atlas("AML.M0008", "Validate AI Model"),
        _atlas("AML.M0013", "Code Signing"),
        _atlas("AML.M0014", "Verify AI Artifacts"),
        _owasp("ML06:2023", "AI Supply Chain Attacks"),
        _owasp("ML07:2023", "Transfer Learning Attack"),
        _owasp("ML10:2023", "Model Poisoning"),
        _owasp("LLM03:2025", "Supply Chain"),
        _owasp("LLM04:2025", "Data and Model Poisoning"),
        _cwe(22, "Improper Limitation of a Pathname to a Restricted Directory ('Path Traversal')"),
        _cwe(347, "Improper Verification of Cryptographic Signature"),
        _cwe(400, "Uncontrolled Resource Consumption"),
        _cwe(409, "Improper Handling of Highly Compressed Data (Data Amplification)"),
        _cwe(502, "Deserialization of Untrusted Data"),
    )
}

_POISONED = (
    "AML.T0018.000", "AML.T0043.004", "AML.T0010.003", "AML.T0058", "ML06:2023", "ML07:2023", "ML10:2023",
    "LLM03:2025", "LLM04:2025", "AML.M0008",
)  # fmt: skip
_FILES = ("AML.T0018.002", "AML.T0011.000", "AML.T0010.003", "ML06:2023", "LLM03:2025", "AML.M0014")
_ORIGIN = ("AML.T0010.003", "ML06:2023", "LLM03:2025", "AML.M0013", "AML.M0014")
OF_CHECK: dict[str, tuple[str, ...]] = {
    "battery": _POISONED,
    "search": _POISONED,
    "trigger": _POISONED,
    "reference": _POISONED,
    # what the static checks refuse: formats that run code, links out of the folder, bounds, archives
    "refused": (*_FILES, "CWE-502", "CWE-22", "CWE-400", "CWE-409"),
    "pickle": (*_FILES, "CWE-502"),
    "disguised-pickle": (*_FILES, "CWE-502"),
    "repository-code": _FILES,
    "other-loader": ("AML.T0010.003", "ML06:2023", "LLM03:2025", "AML.M0014"),
    "attestation": (*_ORIGIN, "CWE-347"),
    "signature": (*_ORIGIN, "CWE-347"),
    "no-commit": _ORIGIN,
}
"""Check of :mod:`platodef_cli.report.checks` -> entries; other checks say nothing about an attack."""

_WEAKNESSES = (
    (re.compile(r"pickle|(can|would|could|of|and) run(ning)? |runs code|archive|is [^,]*, not safetensors"
                r"|adapter|the (hub )?kernel|names code|patch the model"),
     ("CWE-502",)),
    (re.compile(r"a link |outside the model folder|names another repository|names the shard .*; only"
                r"|choose another weight file"), ("CWE-22",)),
    (re.compile(r"more than|the bounds|too deep|nested deeper|larger than|longer than|giant|memory"),
     ("CWE-400",)),
    (re.compile(r"gzip|zip archive|decompress|unpack"), ("CWE-409",)),
)  # fmt: skip


def taxa_of(name: str, message: str = "") -> tuple[str, ...]:
    """Return the entries that a reason or a finding belongs to.

    Args:
        name: Its id.
        message: Of a refusal, what was wrong: only the weaknesses that it tells of are named then, none for a
            weight that is no number. Empty: of the check as a whole.
    """
    entries = OF_CHECK.get(check_of(name).id, ())
    told = {taxon for pattern, taxa in _WEAKNESSES if pattern.search(message) for taxon in taxa}
    if check_of(name).id != "refused" or not message:
        return entries
    return tuple(entry for entry in entries if not entry.startswith("CWE-") or entry in told)


def taxonomy_of(reasons: Iterable[Reason], findings: Iterable[Finding]) -> TaxonomyRecord:
    """Return the entries of everything that did not pass."""
    named = [(reason.id, reason.message) for reason in reasons if reason.outcome != "pass"]
    named += [(finding.id, finding.message) for finding in findings]
    entries: dict[str, tuple[str, ...]] = {}
    for name, message in named:
        taxa = taxa_of(name, message)
        if taxa:
            entries[name] = tuple(dict.fromkeys((*entries.get(name, ()), *taxa)))
    return TaxonomyRecord(version=VERSION, entries=entries)


def in_words(name: str, message: str = "") -> str:
    """Return the entries as text: ``AML.T0018.000 Poison AI Model; ...``; empty where there are none."""
    return "; ".join(f"{TAXA[entry].id} {TAXA[entry].name}" for entry in taxa_of(name, message))
