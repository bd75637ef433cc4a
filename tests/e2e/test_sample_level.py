"""The heads on a real backdoored encoder: detection and purification at the stated levels."""

from pathlib import Path

import pytest
import torch

from platodef_cli.defences import make_detector, make_purifier, purify_flagged
from platodef_cli.defences.calibrate import conformal_threshold, stored_clean_scores
from platodef_cli.encoders.load import open_encoder
from platodef_cli.features.extract import CLEAN, Extraction, Request, extract
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.fit import fit_heads
from platodef_cli.images.parquet import ParquetSource
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.triggers.triggers import Patch

SHARED = Path(__file__).resolve().parents[3] / "shared"
REFERENCES = ("ref-vit", "ref-cnx")
TRUCK = 9  # the planted target class
TRAINING_IMAGES = 20_000


def tuples(source: ParquetSource, features: Extraction, variant: str) -> FeatureTuples:
    indices, suspect = features.features("suspect-a", variant)
    labels = torch.tensor([source.refs[int(i)].label for i in indices])
    return FeatureTuples(suspect, {name: features.features(name, variant)[1] for name in REFERENCES}, labels)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/ is not beside this checkout")
def test_white_square_is_detected_and_purified() -> None:
    encoders = {
        name: open_encoder(str(SHARED / "encoders" / name), name=name) for name in ("suspect-a", *REFERENCES)
    }
    train = ParquetSource(SHARED / "data" / "cifar10" / "train.parquet", limit=TRAINING_IMAGES)
    test = ParquetSource(SHARED / "data" / "cifar10" / "test.parquet")
    square = Patch()
    fitted = tuples(train, extract(train, encoders, [Request()]), CLEAN)
    features = extract(test, encoders, [Request(), Request(square)])
    clean, triggered = tuples(test, features, CLEAN), tuples(test, features, square.name)
    assert triggered.labels is not None
    triggered = triggered.select(triggered.labels != TRUCK)

    heads = fit_heads(fitted)
    areas = {}
    for name in ("energy", "platonic", "ridge"):
        detector = make_detector(name, heads)
        areas[name] = auroc(detector.score(clean), detector.score(triggered))
    assert areas["energy"] >= 0.985
    assert areas["platonic"] >= max(areas["ridge"] + 0.004, 0.985)
    assert heads.metrics["matched_auroc"] >= 0.99
    assert heads.metrics["mean_r2"] > heads.metrics["ridge_r2"] + 0.01

    detector, purifier = make_detector("platonic", heads), make_purifier("mean", heads)
    stored = stored_clean_scores("platonic", heads)
    assert stored is not None
    threshold = conformal_threshold(stored, 0.05)
    generator = torch.Generator().manual_seed(0)
    cleaned = {
        name: purify_flagged(purifier, part, detector.score(part) > threshold, generator)
        for name, part in (("clean", clean), ("triggered", triggered))
    }
    assert fitted.labels is not None
    assert clean.labels is not None
    assert triggered.labels is not None
    probe = LinearProbe.fit(fitted.source, fitted.labels)
    undefended = probe.accuracy(clean.source, clean.labels)
    assert probe.accuracy(cleaned["clean"], clean.labels) >= undefended - 0.03
    predictions = probe.predict(cleaned["triggered"])
    assert float((predictions == triggered.labels).double().mean()) >= 0.58
    assert float((predictions == TRUCK).double().mean()) <= 0.06
    before = probe.predict(triggered.source)
    assert float((before == TRUCK).double().mean()) > 0.9
