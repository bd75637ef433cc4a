"""What an extraction would have to compute, known without computing it."""

from collections.abc import Mapping, Sequence

from platodef_cli.encoders.interface import Encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import SHARD, Request, cut, rows_of
from platodef_cli.features.keys import feature_key
from platodef_cli.images.interface import ImageSource


def uncached(
    source: ImageSource,
    encoders: Mapping[str, Encoder],
    requests: Sequence[Request],
    cache: FeatureCache | None,
    batch_size: int,
) -> dict[str, dict[str, int]]:
    """Return encoder -> variant -> images whose features are not in the cache.

    Args:
        source: The images.
        encoders: Name -> encoder.
        requests: The variants, each at most once, and their images.
        cache: Of features, or None.
        batch_size: Images per call of an encoder.

    Raises:
        UsageError: A request wants an image outside the source.
    """
    wanted = {request.name: request for request in requests}
    rows = {name: rows_of(request, len(source.refs)) for name, request in wanted.items()}
    found: dict[str, dict[str, int]] = {name: dict.fromkeys(wanted, 0) for name in encoders}
    for shard in cut(wanted, rows, SHARD, tuple(encoders)):
        for job in shard:
            for name, encoder in encoders.items():
                if cache is None or not cache.holds(feature_key(source, encoder, job, batch_size)):
                    found[name][job.name] += len(job.rows)
    return found
