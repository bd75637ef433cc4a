"""The page on large work: measured costs, and what follows from them for two jobs."""

from collections.abc import Sequence

from platodef_cli.bench.scale import REFERENCES, ScaleCosts

SUSPECTS, IMAGES = 10_000, 1_000_000_000
AUDIT_IMAGES = 2_000
_YEAR = 365.25 * 24


def draw(costs: ScaleCosts, core_hour: float, text: str) -> str:
    """Return Markdown.

    Args:
        costs: What was measured.
        core_hour: Price of an hour of one processor core.
        text: How to use it: what stands before the numbers.
    """
    return "\n".join(
        [
            text.strip(),
            "",
            *_measured(costs),
            "",
            *_audits(costs, core_hour),
            "",
            *_images(costs, core_hour),
            "",
        ]
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('---' for _ in header)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def _measured(costs: ScaleCosts) -> list[str]:
    ray = "not installed" if costs.ray_start is None else f"{costs.ray_start:.1f} s (wall)"
    return [
        "## Measured",
        "",
        f"CPU seconds on {costs.machine}. Encoders: ViT-B/16 at 224 pixels, float32; features of 768 "
        "numbers, "
        f"{REFERENCES} references; heads of the preset `tiny`.",
        "",
        *_table(
            ("what", "cost"),
            [
                ("decode and resize a JPEG of 500 x 375", _time(costs.decode)),
                ("one image through one encoder", _time(costs.forward)),
                ("the same with the gradient of its pixels", _time(costs.backward)),
                (
                    f"write and hash a shard of {costs.extract_rows} rows ({_size(costs.shard_bytes)})",
                    _time(costs.write),
                ),
                ("score a row", _time(costs.score)),
                ("score a row, and purify it where it is flagged", _time(costs.purify)),
                ("what journal, hashes and names add per shard", _time(costs.piece)),
                ("journal and manifest per shard", _size(costs.manifest_bytes)),
                ("a process that audits, before it does anything", _time(costs.process)),
                (f"read a report ({_size(costs.report_bytes)}) into the table", _time(costs.summary)),
                ("start of a Ray cluster on this machine", ray),
            ],
        ),
    ]


def _audits(costs: ScaleCosts, core_hour: float) -> list[str]:
    shared = costs.decode * AUDIT_IMAGES
    passes = (AUDIT_IMAGES + costs.battery_images) * costs.forward
    search = costs.search_images * costs.backward
    once = REFERENCES * (passes + search)
    each = shared + passes + search + costs.process
    total = once + SUSPECTS * each
    rows = [
        ("references, once", _hours(once), f"{once / total:.2%}"),
        ("decoding, per suspect", _hours(SUSPECTS * shared), f"{SUSPECTS * shared / total:.2%}"),
        ("passes of the suspects", _hours(SUSPECTS * passes), f"{SUSPECTS * passes / total:.2%}"),
        ("searches on the suspects, at most", _hours(SUSPECTS * search), f"{SUSPECTS * search / total:.2%}"),
        ("processes", _hours(SUSPECTS * costs.process), f"{SUSPECTS * costs.process / total:.2%}"),
    ]
    again = REFERENCES * (passes + search) * (SUSPECTS - 1)
    return [
        f"## {SUSPECTS:,} suspects",
        "",
        f"Each a ViT-B/16 on {AUDIT_IMAGES:,} photographs, the whole battery ({costs.battery_images:,} "
        "images) and all "
        f"searches ({costs.search_images:,} images with gradients), without stopping early.",
        "",
        *_table(("part", "core hours", "share"), rows),
        "",
        f"Together {_hours(total)} core hours, {total / SUSPECTS / 3600:.1f} per suspect; at "
        f"{core_hour:g} per core hour "
        f"{total / 3600 * core_hour:,.0f}, or {each / 3600 * core_hour:.2f} per suspect. Without the "
        "common cache the "
        f"references alone would add {_hours(again)} core hours: `PLATODEF_CACHE_DIR` on a file system "
        "that all "
        "machines see is worth more than anything else here. The reports take "
        f"{_size(SUSPECTS * costs.report_bytes)}, `platodef summary` over all of them "
        f"{_hours(SUSPECTS * costs.summary)} "
        f"hours of one core ({SUSPECTS * costs.summary:.0f} s), and one report after the other in memory.",
    ]


def _images(costs: ScaleCosts, core_hour: float) -> list[str]:
    shards = -(-IMAGES // costs.extract_rows)
    encoders = (1 + REFERENCES) * costs.forward * IMAGES
    decoding, writing = costs.decode * IMAGES, costs.write * shards
    cleaning, engine = costs.purify * IMAGES, costs.piece * shards
    total = encoders + decoding + writing + cleaning + engine
    rows = [
        ("encoders", _hours(encoders), f"{encoders / total:.2%}"),
        ("decoding, once for all encoders", _hours(decoding), f"{decoding / total:.2%}"),
        ("scoring and purifying", _hours(cleaning), f"{cleaning / total:.2%}"),
        ("writing and hashing shards", _hours(writing), f"{writing / total:.2%}"),
        ("journal, hashes and names", _hours(engine), f"{engine / total:.2%}"),
    ]
    storage = shards * costs.shard_bytes
    rate = 1 / costs.piece
    fastest = costs.extract_rows * rate
    return [
        f"## {IMAGES:,} images",
        "",
        f"A suspect and {REFERENCES} references, extracted, scored and purified: {shards:,} shards of "
        f"{costs.extract_rows:,} images.",
        "",
        *_table(("part", "core hours", "share"), rows),
        "",
        f"Together {_hours(total)} core hours ({total / 3600 / _YEAR:,.0f} core years), at "
        f"{core_hour:g} per core hour "
        f"{total / 3600 * core_hour:,.0f}. Features take {_size(storage)}, cleaned ones as much again. "
        "On GPUs the "
        "encoders shrink and decoding, which does not, becomes the bound: give every GPU the cores "
        "that decode for it.",
        "",
        "## What breaks first",
        "",
        f"1. **Storage**: {_size(2 * storage)} before anything else. Purify into the place that needs "
        "the features, and "
        "drop the shards of the references.",
        f"2. **One folder of {shards:,} files**: object stores and most file systems take it, `ls` "
        "does not. Give one "
        "folder of images per run, and one folder of shards per run.",
        f"3. **The journal** grows to {_size(shards * costs.manifest_bytes)} with its manifest, and is "
        "read at "
        "every start.",
        "4. **Listing**: a folder of single images is hashed whole by every process before the first shard; "
        "millions of images belong into parquet or tar shards, which only the worker opens that reads them.",
        f"5. **The process that distributes** comes last: it handles {rate:,.0f} shards a second where "
        "nothing is "
        f"computed, as many as {fastest * (1 + REFERENCES) * costs.forward:,.0f} cores could encode.",
    ]
