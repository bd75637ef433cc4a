import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.errors import UsageError
from platodef_cli.heads.mismatch import KINDS, MismatchConfig, MismatchSampler, derange, nearest_rows

ONLY = {
    kind: MismatchConfig(negatives=3, queue=0, **{name: float(name == kind) for name in KINDS})
    for kind in KINDS
}


@given(st.integers(5, 40), st.integers(1, 4), st.integers(0, 10_000))
def test_derangement_has_no_fixed_point_and_no_row_twice(batch: int, spaces: int, seed: int) -> None:
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:batch]
    found = derange(rows, spaces, torch.Generator().manual_seed(seed))
    every = torch.cat([rows.unsqueeze(1), found], dim=1)
    for line in every.tolist():
        assert len(set(line)) == spaces + 1
    for column in found.T:
        assert sorted(column.tolist()) == sorted(rows.tolist())


def test_kinds_replace_what_they_say() -> None:
    rows = torch.arange(100, 140)
    for kind in ("full", "source", "partial"):
        sampler = MismatchSampler(ONLY[kind], references=3)
        drawn = sampler.draw(rows, torch.Generator().manual_seed(0)).rows
        replaced = drawn != rows.reshape(-1, 1, 1)
        if kind == "full":
            assert bool(replaced.all())
        elif kind == "source":
            assert bool(replaced[..., 0].all())
            assert not bool(replaced[..., 1:].any())
        else:
            sizes = replaced[..., 1:].sum(dim=-1)
            assert not bool(replaced[..., 0].any())
            assert set(sizes.flatten().tolist()) == {1, 2}
            assert bool(replaced[..., 1:].flatten(0, 1).any(dim=0).all())


def test_full_takes_every_space_from_another_image() -> None:
    drawn = MismatchSampler(ONLY["full"], references=3).draw(
        torch.arange(50), torch.Generator().manual_seed(0)
    )
    for line in drawn.rows.flatten(0, 1).tolist():
        assert len(set(line)) == 4


def test_queue_is_used_once_it_is_full_and_is_first_in_first_out() -> None:
    config = MismatchConfig(negatives=2, full=1.0, source=0.0, partial=0.0, collapsed=0.0, queue=20)
    sampler = MismatchSampler(config, references=2)
    generator = torch.Generator().manual_seed(0)
    first = sampler.draw(torch.arange(0, 10), generator)
    assert int(first.rows.max()) < 10  # not warm: from the mini-batch
    sampler.draw(torch.arange(10, 20), generator)
    assert sampler.queue.tolist() == list(range(20))
    warm = sampler.draw(torch.arange(15, 25), generator)
    assert int(warm.rows.max()) < 20  # warm: from the queue
    assert int(warm.rows.min()) < 10
    assert sampler.queue.tolist() == [*range(10, 20), *range(15, 25)]
    own = torch.arange(15, 25).reshape(-1, 1, 1)
    assert not bool((warm.rows == own).any())  # rows 15..19 were in the queue themselves
    for line in warm.rows.flatten(0, 1).tolist():
        assert len(set(line)) == 3


def test_mixture_follows_the_weights() -> None:
    config = MismatchConfig(negatives=4, full=1.0, source=2.0, partial=1.0, collapsed=0.0, queue=0)
    kinds = MismatchSampler(config, 2).draw(torch.arange(5000), torch.Generator().manual_seed(0)).kinds
    shares = torch.bincount(kinds.flatten(), minlength=5) / kinds.numel()
    assert torch.allclose(shares, torch.tensor([0.25, 0.5, 0.25, 0.0, 0.0]), atol=0.02)


def test_one_reference_has_no_partial_kind() -> None:
    kinds = MismatchSampler(MismatchConfig(queue=0), 1).draw(torch.arange(99), torch.Generator()).kinds
    assert KINDS.index("partial") not in kinds.unique().tolist()
    with pytest.raises(UsageError, match="no proper subset"):
        MismatchSampler(ONLY["partial"], 1)


def test_neighbours_become_hard_negatives() -> None:
    neighbours = torch.stack([(torch.arange(30) + 1) % 30, (torch.arange(30) + 2) % 30], dim=1)
    drawn = MismatchSampler(ONLY["neighbour"], 2, neighbours).draw(torch.arange(30), torch.Generator())
    step = (drawn.rows[..., 0] - torch.arange(30).unsqueeze(1)) % 30
    assert set(step.flatten().tolist()) == {1, 2}
    assert bool((drawn.rows[..., 1:] == torch.arange(30).reshape(-1, 1, 1)).all())


def test_nearest_rows_against_a_loop() -> None:
    values = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    found = nearest_rows(values, 3, block=7)
    for row in range(40):
        similarity = torch.cosine_similarity(values[row : row + 1], values)
        similarity[row] = -2
        assert found[row].tolist() == similarity.argsort(descending=True)[:3].tolist()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="too small to mismatch 3 spaces"):
        MismatchSampler(MismatchConfig(), 2).draw(torch.arange(3), torch.Generator())
    with pytest.raises(UsageError, match="positive weight"):
        MismatchConfig(full=0, source=0, partial=0, collapsed=0)
    with pytest.raises(UsageError, match="queue"):
        MismatchConfig(queue=-1)
