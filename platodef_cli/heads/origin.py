"""Which encoders made features: the records that feature files carry, held against those of heads."""

from pydantic import TypeAdapter, ValidationError

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import check_match
from platodef_cli.records import EncoderRecord, TransformRecord

RECORD_SOURCE, RECORD_REFERENCES = "record.source", "record.references"
UNKNOWN = "unknown"  # what the record of an encoder says where the feature file says nothing


def check_origin(heads: Heads, tuples: FeatureTuples, path: str) -> None:
    """Check that the encoders that heads judge made some features.

    Files of other tools, and heads that were fitted on such files, do not say who made them; there only
    names and dimensions can be checked, which happens when the heads are applied.

    Raises:
        UsageError: The heads were fitted for another encoder.
    """
    known = heads.card is not None and heads.card.source.digest != UNKNOWN
    if known and RECORD_SOURCE in tuples.metadata:
        check_match(heads, *encoder_records(tuples, path))


def encoder_records(tuples: FeatureTuples, path: str) -> tuple[EncoderRecord, tuple[EncoderRecord, ...]]:
    """Return who made the features: the records in the file, or placeholders for files of other tools."""
    dims = {name: int(value.shape[1]) for name, value in tuples.references.items()}
    origin = "standard input" if path == "-" else path
    try:
        source = EncoderRecord.model_validate_json(tuples.metadata[RECORD_SOURCE])
        found = TypeAdapter(tuple[EncoderRecord, ...]).validate_json(tuples.metadata[RECORD_REFERENCES])
    except KeyError:
        return (
            _unknown("source", int(tuples.source.shape[1]), origin),
            tuple(_unknown(name, dim, origin) for name, dim in dims.items()),
        )
    except ValidationError as error:
        raise UsageError(
            f"{origin}: its encoder records are damaged ({error.error_count()} errors); extract again"
        ) from None
    by_name = {record.name: record for record in found}
    if set(by_name) != set(dims):
        raise UsageError(
            f"{origin}: its encoder records name {', '.join(by_name)}, its tensors {', '.join(dims)}"
        )
    return source, tuple(by_name[name] for name in dims)


def _unknown(name: str, dim: int, origin: str) -> EncoderRecord:
    """Return the record of an encoder that the file says nothing about; it matches no encoder at hand."""
    transform = TransformRecord(
        size=(0, 0), resize=(0, 0), interpolation=UNKNOWN, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    return EncoderRecord(
        name=name,
        uri=f"features in {origin}",
        backend=UNKNOWN,
        architecture=UNKNOWN,
        commit=None,
        dim=dim,
        parameters=0,
        pooling=UNKNOWN,
        dtype=UNKNOWN,
        transform=transform,
        files=(),
        digest=UNKNOWN,
        isolated=False,
    )
