import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import energy_distance

from gapless.geometry import cosine_statistics, effective_rank, gap_statistics, linear_separability
from gapless.geometry.distribution import distribution_gap, gaussian_w2, linear_cka
from gapless.geometry.neighbours import mixing, mutual_knn, pair_neighbours


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_constant_orthogonal_gap_with_gaussian_noise_has_its_closed_form():
    n, d, sigma = 20_000, 24, 0.05
    x = torch.cat([normal(n, d - 1), torch.zeros(n, 1, dtype=torch.float64)], dim=1)
    c = torch.zeros(d, dtype=torch.float64)
    c[-1] = 0.8  # in the direction in which the images do not vary
    y = x - c + sigma * normal(n, d, 1)
    for definition in ("paper", "code"):
        found = gap_statistics(x, y, definition=definition)
        # The mean of 100 noises has variance sigma^2 / 100 in each of d components.
        length = math.sqrt(0.8**2 + d * sigma**2 / 100)
        assert found["gap_length_mean"] == pytest.approx(length, rel=1e-3)
        assert found["gap_direction_mean"] == pytest.approx(0.8**2 / length**2, rel=2e-3)
        assert abs(found["gap_orthogonality_mean"]) < 1e-3
        assert abs(found["noise_mean_mean"]) < 1e-9
        assert abs(found["noise_direction_mean"]) < 0.011  # -1/99 within a group, by construction
        assert found["noise_direction_std"] == pytest.approx(1 / math.sqrt(d), rel=0.03)


def test_both_definitions_are_those_of_plain_loops():
    x, y = F.normalize(normal(23, 5), dim=1), F.normalize(normal(23, 5, 1), dim=1)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))[:20]
    groups = [order[k : k + 5].tolist() for k in range(0, 20, 5)]
    d = x - y
    means = [d[g].mean(dim=0) for g in groups]
    cosine = lambda a, b: float(F.cosine_similarity(a, b, dim=0))  # noqa: E731
    paper = gap_statistics(x, y, 5, "paper", seed=3)
    orthogonal = [
        cosine(x[j] - x[k], mean)
        for g, mean in zip(groups, means, strict=True)
        for j, k in itertools.combinations(g, 2)
    ]
    noise = [
        cosine(d[j] - mean, d[k] - mean)
        for g, mean in zip(groups, means, strict=True)
        for j, k in itertools.combinations(g, 2)
    ]
    direction = [cosine(a, b) for a, b in itertools.combinations(means, 2)]
    for name, values in (("gap_orthogonality", orthogonal), ("noise_direction", noise), ("gap_direction", direction)):
        assert paper[f"{name}_mean"] == pytest.approx(np.mean(values), abs=1e-12)
        assert paper[f"{name}_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    code = gap_statistics(x, y, 5, "code", seed=3)
    consecutive = [cosine(a, b) for a, b in itertools.pairwise(means)]
    whole = torch.stack(means).mean(dim=0)
    along = [cosine(x[i + 1] - x[i], whole) for i in range(22)]
    assert code["gap_direction_mean"] == pytest.approx(np.mean(consecutive))
    lengths = [float(mean.norm()) for mean in means]
    assert (paper["gap_length_mean"], code["gap_length_mean"]) == pytest.approx((np.mean(lengths),) * 2)
    assert paper["gap_length_std"] == pytest.approx(np.std(lengths, ddof=1))
    noises = torch.stack([d[j] - mean for g, mean in zip(groups, means, strict=True) for j in g]).mean(dim=0)
    assert paper["noise_mean_std"] == pytest.approx(float(noises.std()), abs=1e-12)
    overall = d - d.mean(dim=0)
    generator = torch.Generator().manual_seed(3)
    torch.randperm(23, generator=generator)
    shuffled = overall[torch.randperm(23, generator=generator)]
    beside = [cosine(shuffled[i + 1], shuffled[i]) for i in range(22)]
    assert code["noise_direction_mean"] == pytest.approx(np.mean(beside))
    assert code["noise_mean_std"] == pytest.approx(float(overall.mean(dim=0).std()), abs=1e-12)
    assert code["gap_orthogonality_std"] == pytest.approx(np.std(along, ddof=1))
    for group, pairs in ((8, 23), (1, 23)):
        with pytest.raises(ValueError, match=f"three groups of {group} pairs, there are {pairs}"):
            gap_statistics(x, y, group)
    gap_statistics(x[:21], y[:21], 7)


def test_cosines_from_sums_are_those_of_all_pairs(unit):
    x, y = unit(40, 6), unit(40, 6, 1)
    found = cosine_statistics(x, y)
    off = ~torch.eye(40, dtype=torch.bool)
    assert found["cone_image"] == pytest.approx(float((x @ x.T)[off].mean()))
    assert found["non_pair_cosine"] == pytest.approx(float((x @ y.T)[off].mean()))
    assert found["pair_cosine"] == pytest.approx(float((x * y).sum(dim=1).mean()))
    apart = float(((1 - (x * y).sum(dim=1)) / 2).mean())
    within = [float(((1 - (f @ f.T)[off]) / 2).mean()) for f in (x, y)]
    assert found["relative_modality_gap"] == pytest.approx(apart / (apart + sum(within) / 2))
    assert found["cone_text"] == pytest.approx(float((y @ y.T)[off].mean()))
    few = unit(7, 6, 2)
    unpaired = cosine_statistics(x, few)
    within = float((few @ few.T)[~torch.eye(7, dtype=torch.bool)].mean())
    assert unpaired == pytest.approx({"cone_image": found["cone_image"], "cone_text": within})
    collapsed = torch.eye(6)[[0] * 5]
    assert cosine_statistics(collapsed, collapsed)["relative_modality_gap"] == 0


def test_separability_needs_no_pairs():
    apart = torch.zeros(16, dtype=torch.float64)
    apart[0] = 3
    x, y = normal(4000, 16) + apart, normal(4000, 16, 1) - apart
    assert linear_separability(x, y) > 0.99
    assert linear_separability(x, y[:1000]) > 0.99  # no pairs


def test_mixed_and_separate_clouds():
    x, y = F.normalize(normal(1500, 8), dim=1), F.normalize(normal(1500, 8, 1), dim=1)
    assert mixing(x, y)["mixing@10"] == pytest.approx(0.5, abs=0.02)
    apart = torch.zeros(8, dtype=torch.float64)
    apart[0] = 9
    assert mixing(F.normalize(x + apart, dim=1), F.normalize(y - apart, dim=1)) == {"mixing@1": 1, "mixing@10": 1}
    naive = []
    together = torch.cat([x[:30], y[:30]])
    for i in range(60):
        order = [j for j in torch.argsort(-(together @ together[i])).tolist() if j not in (i, (i + 30) % 60)]
        naive += [(j >= 30) == (i >= 30) for j in order[:4]]
    assert mixing(x[:30], y[:30], (4,))["mixing@4"] == pytest.approx(np.mean(naive))


def test_pairs_that_find_each_other_and_the_softmax_matching():
    x = F.normalize(normal(200, 16), dim=1).float()
    assert pair_neighbours(x, x)["relative_alignment"] == 1
    y = F.normalize(x.double() + 0.3 * normal(200, 16, 1), dim=1).float()
    found = pair_neighbours(x, y, temperature=0.2)
    logits = x @ y.T / 0.2
    own = torch.arange(200)
    mutual = ((logits.argmax(dim=1) == own) & (logits.argmax(dim=0) == own)).double().mean()
    assert found["relative_alignment"] == pytest.approx(float(mutual))
    assert 0 < float(mutual) < 1
    assert found["stochasticity_text"] == pytest.approx(
        float(logits.softmax(dim=1).sum(dim=0).var(correction=0)), rel=1e-4
    )
    assert found["stochasticity_image"] == pytest.approx(
        float(logits.softmax(dim=0).sum(dim=1).var(correction=0)), rel=1e-4
    )


def test_neighbours_are_those_of_any_number_of_strips(monkeypatch):
    x = F.normalize(normal(41, 5), dim=1).float()
    y = F.normalize(x + 0.4 * normal(41, 5, 1), dim=1).float()
    found = [(mixing(x, y), pair_neighbours(x, y, 0.1), mutual_knn(x, y, 3)) for _ in range(2)]
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 5 * 41)
    strips = mixing(x, y), pair_neighbours(x, y, 0.1), mutual_knn(x, y, 3)
    for one, other in zip(found[0], strips, strict=True):
        assert other == pytest.approx(one, rel=1e-5)


def test_neighbours_by_hand():
    # On a circle: each image beside its text but the third, whose text lies beside the first image.
    def at(*degrees):
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    x, y = at(0, 90, 180, 270), at(10, 94, -5, 268)
    assert pair_neighbours(x, y)["relative_alignment"] == pytest.approx(0.5)  # the first text is no longer nearest
    assert mixing(x, y, (1, 99)) == pytest.approx({"mixing@1": 0.375, "mixing@99": 0.5})
    images = [{1, 3}, {0, 2}, {1, 3}, {0, 2}]
    texts = [{1, 2}, {0, 2}, {0, 3}, {0, 2}]
    shared = sum(len(a & b) for a, b in zip(images, texts, strict=True))
    assert mutual_knn(x, y, 2) == pytest.approx(shared / 8)
    assert mutual_knn(x, y, 10) == 1  # of three others


def test_shapes_are_compared_without_their_offset():
    x = normal(300, 10)
    rotation = torch.linalg.qr(normal(10, 10, 1)).Q
    assert mutual_knn(F.normalize(x, dim=1), F.normalize(x @ rotation, dim=1)) == 1
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    y = normal(300, 4, 3) + x[:, :4]
    gram = [(f - f.mean(dim=0)) @ (f - f.mean(dim=0)).T for f in (x, y)]
    expected = (gram[0] * gram[1]).sum() / (gram[0].norm() * gram[1].norm())
    assert linear_cka(x, y) == pytest.approx(float(expected))
    assert mutual_knn(F.normalize(x, dim=1), F.normalize(normal(300, 10, 2), dim=1)) < 0.15
    assert linear_cka(x, normal(300, 10, 2)) < 0.1


def test_distribution_gaps_have_their_closed_forms():
    a, b = torch.diag(torch.tensor([4.0, 1.0]).double()), torch.diag(torch.tensor([1.0, 9.0]).double())
    assert gaussian_w2(a, b) == pytest.approx(math.sqrt((2 - 1) ** 2 + (1 - 3) ** 2))
    assert gaussian_w2(a / 16, b / 16) == pytest.approx(math.sqrt(5) / 4)
    turned = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    # Covariances that do not commute: tr sqrt(A^1/2 B A^1/2) of a 2 x 2 matrix is sqrt(tr AB + 2 sqrt(det A det B)).
    other = turned @ b @ turned.T
    cross = math.sqrt(float((a @ other).trace()) + 2 * math.sqrt(4 * 9))
    assert gaussian_w2(a, other) == pytest.approx(math.sqrt(5 + 10 - 2 * cross))
    same = distribution_gap(normal(2000, 4) + 7, normal(2000, 4, 1) - 7)  # offsets are taken away
    assert same["energy_distance"] < 0.01
    assert same["mmd2"] < 0.002
    x, y = normal(500, 1), 3 * normal(400, 1, 1)
    found = distribution_gap(x, y)
    theirs = energy_distance((x - x.mean()).flatten().numpy(), (y - y.mean()).flatten().numpy()) ** 2
    assert found["energy_distance"] == pytest.approx(theirs, rel=1e-9)
    assert found["gaussian_w2"] == pytest.approx(abs(float(x.std(correction=0) - y.std(correction=0))), rel=1e-9)
    # N(0, 1) against N(0, 9) with an RBF of width s: 1/sqrt(1+2/s^2) + 1/sqrt(1+18/s^2) - 2/sqrt(1+10/s^2).
    x, y = normal(4000, 1), 3 * normal(4000, 1, 1)
    s = float(torch.cdist(x[:1024] - x.mean(), y[:1024] - y.mean()).median())
    expected = (1 + 2 / s**2) ** -0.5 + (1 + 18 / s**2) ** -0.5 - 2 * (1 + 10 / s**2) ** -0.5
    assert distribution_gap(x, y)["mmd2"] == pytest.approx(expected, rel=0.05)


def test_effective_rank_of_known_spectra():
    assert effective_rank(normal(20_000, 6)) == pytest.approx(6, rel=1e-2)
    assert effective_rank(torch.cat([normal(5000, 2), torch.zeros(5000, 8).double()], dim=1)) == pytest.approx(
        2, rel=1e-2
    )
