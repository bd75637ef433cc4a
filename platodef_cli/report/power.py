"""What the searches would have found, in words: one line per kind of search."""

from collections.abc import Sequence

from platodef_cli.records import AuditReport, SearchPowerRecord

HOW = "platodef audit --positive-controls"
OF_THE_SIDE = " of the side"


def weakest(power: Sequence[SearchPowerRecord], kind: str) -> SearchPowerRecord | None:
    """Return the record of the smallest strength at which a kind of search has power; None: there is none.

    What is weaker than a strength that is missed does not count.
    """
    best = None
    for record in reversed(_of(power, kind)):
        if record.enough is False:
            break
        best = record if record.enough else best
    return best


def found_from(power: Sequence[SearchPowerRecord]) -> dict[str, str]:
    """Return kind of search -> the smallest strength at which it has power, in words."""
    found = {kind: weakest(power, kind) for kind in dict.fromkeys(record.kind for record in power)}
    return {kind: record.change for kind, record in found.items() if record is not None}


def powerless(power: Sequence[SearchPowerRecord]) -> dict[str, str]:
    """Return kind of search -> what it missed, for those that have power at no strength that was tried."""
    found = {}
    for kind in dict.fromkeys(record.kind for record in power):
        told = [record for record in _of(power, kind) if record.enough is not None]
        if told and weakest(power, kind) is None:
            found[kind] = "; ".join(counted(record) for record in told)
    return found


def unmeasured(power: Sequence[SearchPowerRecord], kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of search that nothing is known of: no control was run, or too few of them work."""
    known = {record.kind for record in power if record.enough is not None}
    return tuple(kind for kind in kinds if kind not in known)


def searched_kinds(report: AuditReport) -> tuple[str, ...]:
    """Return the kinds that the suspect was searched with, in their order."""
    return tuple(dict.fromkeys(record.kind for record in report.searches if record.role == "suspect"))


def counted(record: SearchPowerRecord) -> str:
    """Return ``10 of 10 at 16% of the side [0.69, 1.00], 2 of them undecided``."""
    found = record.found
    hits, misses = (found.n_positive or 0, found.n_negative or 0) if found else (0, 0)
    between = f" [{found.interval.low:.2f}, {found.interval.high:.2f}]" if found and found.interval else ""
    undecided = hits - (record.accused if record.accused is not None else hits)
    also = f", {undecided} of them undecided" if undecided else ""
    return f"{hits} of {hits + misses} at {record.change}{between}{also}"


def power_lines(power: Sequence[SearchPowerRecord], kinds: Sequence[str]) -> tuple[str, ...]:
    """Return one line per kind of search: which planted backdoors it finds, or that it was not examined."""
    missed, unknown = powerless(power), unmeasured(power, kinds)
    lines = []
    for kind in kinds:
        if kind in unknown:
            tried = [f"{_working(record)} at {record.change}" for record in _of(power, kind)]
            why = f": too few planted backdoors work ({', '.join(tried)})" if tried else ""
            lines.append(f"{kind}: power not measured{why}")
        elif kind in missed:
            lines.append(f"{kind}: not examined, planted backdoors are missed (found {missed[kind]})")
        else:
            told = [record for record in reversed(_of(power, kind)) if record.enough is not None]
            lines.append(f"{kind}: finds {'; '.join(counted(record) for record in told)}")
    return tuple(lines)


def in_one_line(report: AuditReport) -> str:
    """Return the smallest planted backdoors that are found with power, for one screen; empty without any."""
    kinds, found = searched_kinds(report), found_from(report.search_power)
    # "of the side" is said where there is room
    known = [f"{kind} {found[kind].removesuffix(OF_THE_SIDE)}" for kind in kinds if kind in found]
    missed = [kind for kind in powerless(report.search_power) if kind in kinds]
    if not known and not missed:
        return ""
    parts = [f"would find planted {', '.join(known)}"] if known else []
    parts += [f"not {', '.join(missed)}"] if missed else []
    return "; ".join(parts) if known else f"would find no planted backdoor: {parts[0]}"


def _working(record: SearchPowerRecord) -> str:
    found = record.found
    working = (found.n_positive or 0) + (found.n_negative or 0) if found else 0
    return f"{working} of {len(record.controls)}"


def _of(power: Sequence[SearchPowerRecord], kind: str) -> list[SearchPowerRecord]:
    return sorted((record for record in power if record.kind == kind), key=lambda record: record.strength)
