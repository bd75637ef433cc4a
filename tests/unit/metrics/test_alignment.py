import numpy as np
import pytest
import torch

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics import kernels
from platodef_cli.metrics.alignment import alignment_records, alignment_share, cka, cknna


def spaces(n=60, d=(7, 11), noise=1.0, seed=0):
    """Two noisy views of the same latent variables, with means far from zero."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 4))
    made = [
        latent @ rng.normal(size=(4, k)) + noise * rng.normal(size=(n, k)) + rng.normal(size=k) for k in d
    ]
    return [torch.from_numpy(space).float() for space in made]


def unit(x):
    x = x.double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_hsic(k, l):  # noqa: E741
    """The unbiased estimator by its definition: the mean over all ordered quadruples of distinct indices.

    Song et al. 2012, theorem 2: K_ij (L_ij + L_qr - 2 L_iq), written with full matrices.
    """
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    trace = np.trace(k @ l)
    total = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (trace + total - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def quadruple_hsic(k, l):  # noqa: E741
    """The same by brute force over quadruples, for symmetric kernels."""
    n = len(k)
    values = []
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        values.append(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
    return np.mean(values)


def slow_cka(x, y):
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return slow_hsic(k, l) / np.sqrt(slow_hsic(k, k) * slow_hsic(l, l))


def slow_cknna(x, y, k, epsilon=0.0):
    """Dense, one image at a time."""
    n = len(x)
    a, b = x @ x.T, y @ y.T

    def mask(s):
        m = np.zeros((n, n))
        for i in range(n):
            others = [j for j in range(n) if j != i]
            m[i, sorted(others, key=lambda j: -s[i, j])[:k]] = 1
        return m

    ma, mb = mask(a), mask(b)
    own = np.sqrt(slow_hsic(ma * a, ma * a) * slow_hsic(mb * b, mb * b))
    return slow_hsic(ma * mb * a, ma * mb * b) / (own + epsilon)


def test_the_slow_reference_is_the_definition():
    x, y = (unit(space) for space in spaces(7))
    assert slow_hsic(x @ x.T, y @ y.T) == pytest.approx(quadruple_hsic(x @ x.T, y @ y.T), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, (7, 11)), (20, (40, 3)), (5, (2, 2))])
def test_cka_equals_the_slow_reference(n, d):
    x, y = spaces(n, d)
    assert cka(x, y) == pytest.approx(slow_cka(unit(x), unit(y)), abs=1e-5)
    plain = slow_cka(x.double().numpy(), y.double().numpy())
    assert cka(x, y, normalize=False) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(("n", "k"), [(60, 10), (60, 2), (25, 24), (200, 10)])
@pytest.mark.parametrize("compat", [False, True])
def test_cknna_equals_the_slow_reference(n, k, compat, monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 1000)  # several blocks
    x, y = spaces(n)
    expected = slow_cknna(unit(x), unit(y), k, 1e-6 if compat else 0.0)
    assert cknna(x, y, k, compat=compat) == pytest.approx(expected, abs=1e-5)


def test_identical_and_rotated_spaces_are_aligned():
    x, _ = spaces(80)
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0))).Q
    for other in (x, 3.5 * x @ rotation):
        assert cka(x, other) == pytest.approx(1, abs=1e-5)
        assert cknna(x, other) == pytest.approx(1, abs=1e-4)


def test_compat_is_lower():
    x, y = spaces(400)
    assert cknna(x, y, compat=True) < cknna(x, y)


def test_independent_spaces_have_cka_around_zero():
    """Biased CKA would be near 0.9 here."""
    generator = torch.Generator().manual_seed(0)
    values = [cka(*torch.randn(2, 64, 512, generator=generator)) for _ in range(20)]
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0


def test_records_hold_the_value_and_the_exact_null():
    x, y = spaces(40)
    records = alignment_records({"a": x, "b": y}, k=5, permutations=30, seed=3)
    generator = np.random.default_rng(3)
    orders = [generator.permutation(40) for _ in range(30)]
    for record in records:
        if record.measure == "cka":
            assert record.value == pytest.approx(cka(x, y), abs=1e-9)
            null = [slow_cka(unit(x), unit(y)[order]) for order in orders]
            assert record.k is None
        else:
            assert record.value == pytest.approx(cknna(x, y, 5), abs=1e-9)
            null = [slow_cknna(unit(x), unit(y)[order], 5) for order in orders]
            assert record.k == 5
        assert record.null_mean == pytest.approx(np.mean(null), abs=1e-4)
        assert record.null_high == pytest.approx(max(null), abs=1e-4)
        assert record.p_value == (1 + sum(v >= record.value for v in null)) / 31
        assert record.n == 40
    assert [r.measure for r in records] == ["cka", "cknna"]


def test_null_of_cka_on_principal_axes_keeps_its_spread():
    """A long tail of small directions is left out; the null must not notice."""
    rng = np.random.default_rng(0)
    scale = np.r_[np.full(5, 1.0), np.full(195, 0.02)]
    x, y = (torch.from_numpy(rng.normal(size=(150, 200)) * scale).float() for _ in range(2))
    first, second = kernels.LinearKernel.of(x), kernels.LinearKernel.of(y)
    assert first._principal().x.shape[1] < 100
    orders = [rng.permutation(150) for _ in range(60)]
    fast = np.array(first.null(second, orders))
    exact = np.array([first.cross(second, order) for order in orders])
    assert np.abs(fast - exact).max() < 5e-3 * exact.std()


def test_independent_spaces_get_uniform_p_values_and_related_ones_small():
    small = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 30, 6, generator=generator)
        record, _ = alignment_records({"a": x, "b": y}, k=3, permutations=19, seed=seed)
        small += record.p_value <= 0.25
    assert 3 <= small <= 18  # binomial(40, 1/4): 99 % within 4..17
    x, y = spaces(100)
    assert all(record.p_value == 1 / 51 for record in alignment_records({"a": x, "b": y}, permutations=50))


def test_records_of_several_spaces_are_seeded():
    x, y = spaces(30)
    named = {"a": x, "b": y, "c": torch.randn(30, 4, generator=torch.Generator().manual_seed(1))}
    first, again = (alignment_records(named, k=4, permutations=10, seed=1) for _ in range(2))
    assert first == again
    assert [(r.first, r.second) for r in first if r.measure == "cka"] == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize(
    "flat",
    [torch.zeros(30, 4), torch.full((30, 4), 0.1), torch.full((30, 300), 1e-30), torch.full((30, 4), 1e30)],
)
def test_constant_spaces_are_not_aligned_and_not_nan(flat):
    x, _ = spaces(30)
    for first, second in ((flat, x), (x, flat), (flat, flat)):
        assert cka(first, second) == 0
        assert cknna(first, second, 5) == 0
    for record in alignment_records({"x": x, "flat": flat}, k=5, permutations=5):
        assert (record.value, record.p_value) == (0, 1)


def test_duplicated_rows_and_no_shared_neighbours_are_finite():
    x, y = spaces(40)
    twice = x[torch.arange(40) // 2]
    assert np.isfinite([cka(twice, y), cknna(twice, y, 3), cknna(twice, twice, 3)]).all()
    # Two rings, one of them walked in steps of 13: no neighbour is shared.
    angle = torch.arange(40) * 2 * torch.pi / 40
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    other = torch.stack([(13 * angle).cos(), (13 * angle).sin()], 1)
    assert cknna(ring, other, 2) == 0


def test_bad_input():
    x, y = spaces(20)
    with pytest.raises(UsageError, match="same images"):
        cka(x, y[:10])
    with pytest.raises(UsageError, match="finite"):
        cka(x / 0, y)
    with pytest.raises(InconclusiveError, match="at least 4 images, got 3"):
        cka(x[:3], y[:3])
    for k in (1, 20):
        with pytest.raises(UsageError, match=f"k = {k}"):
            cknna(x, y, k)
    with pytest.raises(UsageError, match="at least 1 permutation"):
        alignment_records({"a": x, "b": y}, permutations=0)


def related(rng, n, noises):
    """Features that see the same latent variables through different noise."""
    latent = rng.normal(size=(n, 6))
    return [
        torch.from_numpy(latent @ matrix + noise * rng.normal(size=(n, 12))).float()
        for matrix, noise in zip(
            np.random.default_rng(7).normal(size=(len(noises), 6, 12)), noises, strict=True
        )
    ]


def test_the_share_is_one_for_a_peer_and_near_zero_for_a_random_encoder():
    rng = np.random.default_rng(0)
    peer, first, second = related(rng, 300, (0.5, 0.5, 0.5))
    share = alignment_share(peer, [first, second])
    assert share.value == pytest.approx(1.0, abs=0.4)
    assert share.interval.low > 0.7
    noise = torch.from_numpy(rng.normal(size=(300, 12))).float()
    share = alignment_share(noise, [first, second])
    assert share.interval.high < 0.3
    constant = alignment_share(torch.ones(300, 12), [first, second])
    assert constant.value < 0.1
    assert alignment_share(peer, [first]) is None
    assert alignment_share(peer[:7], [first[:7], second[:7]]) is None
    assert alignment_share(peer, [first, second]) == alignment_share(peer, [first, second])


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_interval_of_the_share_covers_what_it_says(noise):
    rng = np.random.default_rng(1)
    metrics = [
        alignment_share(spaces[0], spaces[1:])
        for spaces in (related(rng, 150, (noise, 0.7, 0.7)) for _ in range(150))
    ]
    truth = np.mean([metric.value for metric in metrics])
    hits = np.mean([metric.interval.low <= truth <= metric.interval.high for metric in metrics])
    # no shorter than stated; halves with half the neighbours vary a little more than the whole
    assert 0.92 <= hits <= 1.0
    spread = np.std([metric.value for metric in metrics])
    stated = np.mean([(metric.interval.high - metric.interval.low) / (2 * 1.96) for metric in metrics])
    assert stated < 1.6 * spread
