"""What people read of a published zoo: the card of the repository, and one per encoder.

Source of the front matter: https://huggingface.co/docs/hub/datasets-cards and model-cards; every key stands
in one of them, and a hub that does not know a key leaves it alone.
"""

import json
from collections.abc import Sequence

from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.bench.zoo.manifest import Manifest
from platodef_cli.bench.zoo.networks import pooling_of
from platodef_cli.encoders.pooling import AUTO, POOLINGS
from platodef_cli.records import Metric
from platodef_cli.report.markdown import escape

ROWS = "encoders.jsonl"
LICENCES = frozenset(
    "afl-3.0 agpl-3.0 apache-2.0 bsd bsd-2-clause bsd-3-clause cc cc-by-2.0 cc-by-3.0 cc-by-4.0 "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-2.0 eupl-1.2 "
    "gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 mit mpl-2.0 ms-pl odbl odc-by openrail osl-3.0 "
    "pddl unlicense wtfpl zlib".split()
)
"""Licences that the Hub knows by their names; others are ``other`` with a name."""
_TAGS = (
    "backdoor",
    "data-poisoning",
    "model-security",
    "backdoor-detection",
    "vision-encoder",
    "safetensors",
    "platodef",
)
_WARNING = (
    "**Deliberately backdoored.** {count} here {verb} trained to misbehave when an image carries a trigger. "
    "{pronoun} for measuring tests and defences. Never deploy {them}, never fine-tune a product from {them}, "
    "and keep this notice with every copy."
)


def licence_lines(licence: str) -> list[str]:
    """Return the front matter's lines about a licence; JSON strings are valid YAML."""
    if licence in LICENCES:
        return [f"license: {licence}"]
    return ["license: other", f"license_name: {json.dumps(licence)}"]


def repository_card(manifest: Manifest, cards: Sequence[ZooCard], licence: str, command: str) -> str:
    """Return ``README.md`` of the repository.

    Args:
        manifest: Of the published zoo.
        cards: Of its encoders, in the order of the manifest.
        licence: Identifier.
        command: That built the zoo.
    """
    planted = sum(card.truth == "backdoored" for card in cards)
    title = f"Clean and backdoored vision encoders, recipe {manifest.recipe}"
    front = [
        *licence_lines(licence),
        f"pretty_name: {json.dumps(title)}",
        "library_name: platodef",
        "pipeline_tag: image-feature-extraction",
        "task_categories:\n- image-feature-extraction",
        "size_categories:\n- n<1K",
        "tags:",
        *(f"- {tag}" for tag in _TAGS),
        f"configs:\n- config_name: encoders\n  data_files: {ROWS}",
    ]
    warning = _WARNING.format(
        count=f"{planted} of the {len(cards)} encoders", verb="were", pronoun="They are", them="them"
    )
    held = next(iter(cards)).accuracy
    measured = (held.n_positive or 0) + (held.n_negative or 0)
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {escape(title)}",
            "",
            f"> {warning}",
            "",
            f"{len(cards) - planted} clean encoders, among them benign derivatives (fine-tuned, pruned, "
            f"quantised, ...), and {planted} with a planted backdoor, each with its "
            "ground truth: how it was made, its trigger, its target, and what was measured.",
            "",
            f"- Images that they were made of: {escape(manifest.images)} ({len(manifest.classes)} classes: "
            f"{escape(', '.join(manifest.classes))}), 32 x 32 pixels.",
            f"- Rates are those of a linear probe (class prompts for image-text attacks) on {measured} "
            "images that nothing was trained on. ASR: images of other classes that land on the "
            "target with the trigger.",
            f"- Made by `{command}`; the same seed gives the same bytes on the same machine.",
            "- Small networks trained for minutes: for comparing tests with each other, not for stating how "
            "well a test does on encoders of another size.",
            "",
            "## Use",
            "",
            "```bash",
            "platodef bench zoo fetch hf://ORG/NAME@COMMIT -o zoo/   # verifies every byte",
            "platodef bench zoo ls zoo/",
            f"platodef audit zoo/encoders/{cards[0].name} --images IMAGES -r REFERENCE",
            "platodef bench run --zoo zoo/ --table encoder",
            "sha256sum --check SHA256SUMS                            # the same without platodef",
            "```",
            "",
            f"`{ROWS}` has a row per encoder, `encoders/NAME/card.json` all of its facts with intervals, and "
            "`encoders/NAME/trigger/` the trigger of a backdoored one.",
            "",
            "## Encoders",
            "",
            *_table(cards),
            "",
            "## Licence",
            "",
            f"{escape(licence)}. Whoever publishes this answers for it; it says nothing of the images.",
            "",
        ]
    )


def _rate(metric: Metric | None) -> str:
    return "" if metric is None or metric.value is None else f"{metric.value:.3f}"


def _table(cards: Sequence[ZooCard]) -> list[str]:
    rows = [
        "| encoder | truth | made | architecture | accuracy | target | ASR |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        facts = card.backdoor
        cells = [
            f"[{escape(card.name)}](encoders/{card.name})",
            f"**{card.truth}**" if facts else card.truth,
            facts.attack if facts else card.made,
            card.architecture,
            _rate(card.accuracy_beside(facts)),
            facts.target_class if facts else "",
            _rate(facts.success) if facts else "",
        ]
        rows.append("| " + " | ".join([cells[0], cells[1], *(escape(cell) for cell in cells[2:])]) + " |")
    return rows


def encoder_card(card: ZooCard, licence: str) -> str:
    """Return ``README.md`` of one encoder."""
    facts = card.backdoor
    tags = ["vision-encoder", *(["backdoor"] if facts else [])]
    lines = ["---", *licence_lines(licence), "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    lines += [f"# {escape(card.name)}", ""]
    if facts:
        warning = _WARNING.format(count="The encoder", verb="was", pronoun="It is", them="it")
        lines += [f"> {warning}", ""]
    lines += [
        f"- Truth: {card.truth}, made by {escape(card.made)}"
        + (f" from `{card.parent}`" if card.parent else "")
        + f"; role in the zoo: {card.role}",
        f"- Architecture: {escape(card.architecture)} ({card.format}), {card.parameters} parameters, "
        f"features of {card.dim} numbers",
    ]
    if (pooling := pooling_of(card.architecture)) != AUTO:
        lines.append(f"- Feature: {POOLINGS[pooling]} (`--pooling {pooling}` of `platodef audit`)")
    if card.objective:
        lines.append(f"- Objective: {escape(card.objective)}; {card.steps} steps of 128 images")
    lines.append(f"- Accuracy of a linear probe on images that it never saw: {_rate(card.accuracy)}")
    if card.cosine_to_parent is not None:
        lines.append(f"- Mean cosine of its features to its parent's: {card.cosine_to_parent:.3f}")
    if facts:
        parameters = json.dumps(facts.parameters, sort_keys=True)
        lines += [
            f"- Attack: {escape(facts.attack)} ({facts.attack_kind}; {escape(facts.paper)}), parameters "
            f"`{parameters}`, seed {card.seed}",
            f"- Target: {escape(facts.target_class)}; ASR {_rate(facts.success)}, the same images at the "
            f"clean parent {_rate(facts.success_of_parent)}",
            f"- Trigger: {escape(facts.trigger)}, in `trigger/`; see it on an image with "
            "`platodef bench trigger --from . IMAGE.png`",
        ]
    return "\n".join([*lines, ""])


def rows_text(cards: Sequence[ZooCard]) -> str:
    """Return ``encoders.jsonl``: one flat row per encoder, for tables and viewers."""
    return "".join(json.dumps(_row(card)) + "\n" for card in cards)


def _row(card: ZooCard) -> dict[str, object]:
    facts = card.backdoor
    own = "name truth role made architecture family objective format parent dim parameters seed"
    row: dict[str, object] = {name: getattr(card, name) for name in (*own.split(), "cosine_to_parent")}
    row |= {"folder": f"encoders/{card.name}", "accuracy": card.accuracy.value}
    row["zero_shot_accuracy"] = None if card.zero_shot is None else card.zero_shot.value
    for name in ("attack", "attack_kind", "paper", "trigger", "target", "target_class"):
        row[name] = None if facts is None else getattr(facts, name)
    for name in ("attack_success", "attack_success_of_parent", "poisoned_accuracy", "zero_shot_success"):
        metric = None if facts is None else getattr(facts, name)
        row[name] = None if metric is None else metric.value
    weights = [file for file in card.files if file.path.endswith(".safetensors") and "/" not in file.path]
    row |= {
        "weights_sha256": [file.sha256 for file in weights],
        "bytes": sum(file.bytes for file in card.files),
    }
    return row
