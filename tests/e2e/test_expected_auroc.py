"""Every detector reaches its expected AUROC on a real planted encoder."""

from pathlib import Path

import pytest

from platodef_cli.bench.defending import defend
from platodef_cli.bench.evaluation import EvaluationData
from platodef_cli.bench.feature_store import FeatureStore, open_benchmark_images
from platodef_cli.bench.zoo.manifest import Manifest, Zoo
from platodef_cli.defences import DETECTORS
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.fit import fit_heads
from platodef_cli.images.open import open_source
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.triggers.triggers import Patch

SHARED = Path(__file__).resolve().parents[3] / "shared"
WITH_EXPECTATION = tuple(
    name for name in DETECTORS.names() if DETECTORS.load(name).expected_auroc is not None
)
TARGET = 9


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/ is not beside this checkout")
def test_expected_aurocs_are_reached_on_a_planted_white_square(tmp_path: Path) -> None:
    uri = str(SHARED / "data" / "cifar10" / "test.parquet")
    images = open_benchmark_images(uri, 600, open_source(uri).classes)
    nothing = Manifest(recipe="none", images=uri, seed=0, classes=images.classes, encoders=())
    names = ("suspect-a", "ref-cnx", "suspect-c")
    folders = {name: SHARED / "encoders" / name for name in names}
    store = FeatureStore(Zoo(tmp_path, nothing, {}), images, extra=folders)
    roles, references = images.roles(0), names[1:]
    fit, test = (store.samples(names[0], references, rows) for rows in (roles.fit, roles.test))
    trigger = Patch("white", 0.3125, "bottom-right")
    evaluation = EvaluationData(
        fit=fit,
        calibration=store.samples(names[0], references, roles.calibration),
        test=test,
        changed=store.changed(names[0], references, roles.test, trigger),
        target=TARGET,
        probe=LinearProbe.fit(fit.source, fit.labels, seed=0),
    )
    heads = fit_heads(FeatureTuples(fit.source, fit.references), seed=0)
    methods = defend(
        store, names[0], evaluation, heads, seed=0, detectors=WITH_EXPECTATION, purifiers=()
    ).methods
    store.close()
    assert methods["none"].numbers["ASR"].value > 0.9
    applicable = 0
    for name in WITH_EXPECTATION:
        method = methods[f"detector {name}"]
        if not method.numbers:
            assert method.note
            continue
        expected_auroc = DETECTORS.load(name).expected_auroc
        assert method.numbers["AUC"].value >= expected_auroc.auroc, (name, expected_auroc)
        applicable += 1
    assert applicable >= 4
