"""What others need to weigh a result: taxonomies, how good the test is, who signed the model."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record
from platodef_cli.records.lineage import LineageRecord
from platodef_cli.records.measured import Metric


class FamilyRate(Record):
    """How often the audit was right about encoders with one family of backdoors."""

    family: str = Field(description="name of the attack, as `platodef bench zoo ls` has it")
    detected: Metric = Field(description="true positive rate with its interval; n_positive encoders")
    undecided: Metric = Field(description="share of the same encoders with the verdict inconclusive")


class MeasuredQuality(Record):
    """The rates of one benchmark: verdicts on encoders of which it is known what was planted."""

    benchmark: str = Field(description="recipe of the zoo")
    trained_on: str = Field(description="images that the encoders were trained on")
    images: str = Field(description="images of the audits")
    tool_version: str
    sha256: str = Field(description="of the file with the results, which is part of the package")
    detected: Metric = Field(description="true positive rate over all families")
    false_alarms: Metric = Field(description="false positive rate: clean encoders that failed")
    undecided_clean: Metric = Field(description="clean encoders without an answer")
    families: tuple[FamilyRate, ...]


class QualityRecord(Record):
    """How good the test is, as far as that was measured; what is not named here was not measured."""

    measured: tuple[MeasuredQuality, ...] = ()
    not_measured: tuple[str, ...] = Field(description="families, and circumstances of this audit")


class TaxonomyRecord(Record):
    """Where the reasons and findings stand in public taxonomies."""

    version: str = Field(description="of the table that maps checks to entries")
    entries: dict[str, tuple[str, ...]] = Field(
        description="id of a reason or finding -> ids: MITRE ATLAS (AML.), OWASP (ML, LLM), CWE"
    )


class SignatureRecord(Record):
    """The publisher's signature of the model (OpenSSF Model Signing), and what came of it."""

    status: Literal["absent", "trusted", "untrusted", "unverified", "invalid"] = Field(
        description="trusted: valid and by a signer whom the policy trusts; untrusted: by nobody whom it "
        "trusts; unverified: there, but no signer was named; invalid: the files or the signature differ"
    )
    file: str | None = Field(None, description="name of the bundle, e.g. model.sig")
    sha256: str | None = Field(None, description="of the bundle")
    kind: Literal["key", "certificate", "sigstore"] | None = None
    signer: str | None = Field(None, description="the trusted signer that it is by")
    root: str | None = Field(None, description="root digest of the signed manifest, SHA-256 (OMS)")
    message: str = ""


class CardRecord(Record):
    """What the model card says of the model: claims of its publisher, nothing that was checked."""

    license: str | None = None
    base_models: tuple[str, ...] = ()


class SaidRecord(Record):
    """What one encoder says about a change."""

    encoder: str
    role: Literal["suspect", "reference"]
    kept: Metric = Field(
        description="mean cosine of an image's feature with and without the change (standardised): 1 where "
        "the change is not noticed, 0 where the feature says nothing of the image any more"
    )
    collapse: float | None = Field(None, description="mean pairwise cosine of the changed features")
    shift: float | None = Field(None, description="mean shift, in clean standard deviations")
    examples: tuple[float, ...] = Field((), description="the cosine of every example")
    classes: tuple[tuple[str, str], ...] = Field(
        (), description="class of every example without and with the change (suspect and labels only)"
    )


class AccusedRecord(Record):
    """The change that tells most against the suspect, on images, and what every encoder says about it."""

    name: str = Field(description="of the probe")
    kind: Literal["trigger", "control", "found"]
    originals: tuple[str, ...] = Field(description="images without the change, PNG, base64")
    examples: tuple[str, ...] = Field(description="the same images with it, PNG, base64")
    said: tuple[SaidRecord, ...] = Field(description="the suspect first")


class ContextRecord(Record):
    """What others need to weigh the result."""

    taxonomy: TaxonomyRecord
    quality: QualityRecord
    signature: SignatureRecord | None = None
    card: CardRecord | None = None
    accused: AccusedRecord | None = None
    lineage: LineageRecord | None = None
