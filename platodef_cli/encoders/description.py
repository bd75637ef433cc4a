"""What a loaded encoder says about itself, in a form that can cross a process boundary."""

from pydantic import Field

from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.records import EncoderRecord, Record, TransformRecord


class EncoderDescription(Record):
    """Properties that are known only once the network is built."""

    architecture: str = Field(max_length=200)
    pooling: str = Field(max_length=100)
    dim: int = Field(ge=1, le=2**20)
    parameters: int = Field(ge=0)
    transform: TransformRecord
    notes: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """The resize and crop of the transform."""
        t = self.transform
        return Geometry(t.size, t.resize, t.interpolation, t.fill, t.fit, t.crop)


def make_record(
    description: EncoderDescription,
    checked: Preflight,
    *,
    name: str,
    uri: str,
    commit: str | None,
    dtype: str,
    isolated: bool,
) -> EncoderRecord:
    """Join what the network says with what was established about its files before it was loaded."""
    return EncoderRecord(
        name=name,
        uri=uri,
        backend=checked.backend,
        architecture=description.architecture,
        commit=commit,
        dim=description.dim,
        parameters=description.parameters,
        pooling=description.pooling,
        dtype=dtype,
        transform=description.transform,
        files=checked.files,
        digest=checked.digest,
        isolated=isolated,
    )
