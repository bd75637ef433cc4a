import mmap

from platodef_cli.metrics.costs import Cost, measure_cost, peak_ever


def test_memory_and_time_of_a_block_are_seen_and_the_peak_is_kept() -> None:
    before = peak_ever()
    with measure_cost() as cost:
        # not from the allocator, which may have kept as much of what earlier tests freed
        with mmap.mmap(-1, 160_000_000) as block:
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
    assert 120 < cost.memory_mb < 400
    assert cost.seconds > 0
    with measure_cost() as small:
        pass
    assert small.memory_mb < 50
    assert peak_ever() >= max(before, 160)


def test_seconds_scale_with_samples_and_memory_does_not() -> None:
    assert Cost(2.0, 30.0).per_thousand(500) == Cost(4.0, 30.0)
    assert Cost(2.0, 30.0).per_thousand(0) == Cost(2000.0, 30.0)
