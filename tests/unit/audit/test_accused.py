"""The images on which the accused change is shown."""

import torch

from platodef_cli.audit.steps.accused import _examples, _kept
from platodef_cli.search.statistics import CleanStatistics


def test_images_that_lay_at_the_target_before_are_not_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(40, 16, generator=generator)
    target = torch.randn(16, generator=generator)
    clean[:12] = target + 0.1 * torch.randn(12, 16, generator=generator)
    changed = target + 0.1 * torch.randn(40, 16, generator=generator)
    statistics = CleanStatistics.of(clean)
    chosen = _examples(statistics, clean, changed)
    kept = _kept(statistics, clean, changed)
    assert len(chosen) == 4
    assert chosen.tolist() == sorted(chosen.tolist())
    assert int(chosen[0]) >= 12
    assert bool((kept[chosen] <= kept.median()).all())
    # the first such images, not the worst ones
    assert chosen.tolist() == [row for row in range(40) if kept[row] <= kept.median()][:4]


def test_few_images_give_few_examples() -> None:
    clean = torch.eye(3)
    assert len(_examples(CleanStatistics.of(clean), clean, clean.flip(0))) >= 1
