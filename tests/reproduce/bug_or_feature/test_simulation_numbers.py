"""Small simulations by their numbers: seeds, signs and settings reach what they name. Values of torch 2.6 on a CPU."""

import pytest
import torch

from gapless.reproduce.bug_or_feature.simulations import ablation, by_number, clusters, descend, orthogonality
from gapless.reproduce.connect_collapse_corrupt.simulations import mlp_collapse, stable_region, two_spans
from gapless.reproduce.simulations import SIMULATIONS


def close(values, tolerance=1e-3):
    return pytest.approx(values, rel=tolerance)


def test_dimensions_by_depth():
    shares = []
    result = mlp_collapse(inputs=200, width=24, depth=11, seed=3, progress=shares.append)
    assert result.numbers == {"layer 0": 24, "layer 5": 12, "layer 10": 8}
    assert result.published == {}  # the paper's are of 512 dimensions
    assert result.curves == {"effective dimensions by layer": {"random ReLU network": ([0, 5, 10], [24, 12, 8])}}
    assert shares == [5 / 11, 10 / 11]
    assert mlp_collapse(inputs=200, width=24, depth=11, seed=4).numbers != result.numbers


def test_two_spans():
    shares = []
    settings = {"n": 20, "d": 16, "image_dims": 3, "text_dims": 6, "lr": 2.0, "temperature": 0.1, "seed": 2}
    result = two_spans(steps=5, progress=shares.append, **settings)
    assert result.numbers == close(
        {
            "gap before": 1.352429,
            "gap before, constant dimensions": 1.063651,
            "gap after": 1.338122,
            "gap after, constant dimensions": 1.066045,
            "variance after, constant dimensions": 0.002584254,
            "loss after": 2.094209,
        }
    )
    assert result.published == {
        "gap before": 1.21,
        "gap before, constant dimensions": 0.99,
        "gap after, constant dimensions": 0.82,
        "variance after, constant dimensions": 0.0,
    }
    (lines,) = result.curves.values()
    assert list(result.curves) == ["variance of each dimension (log10)"]
    assert list(lines) == ["before", "after"]
    assert lines["before"][0] == lines["after"][0] == list(range(16))
    before, after = (line[1] for line in lines.values())
    assert (before[0], before[4], before[10]) == close((-1.602064, -1.711138, -4.084941))
    assert (after[0], after[4], after[10]) == close((-1.647705, -1.696447, -3.565068))
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_margins():
    shares = []
    result = stable_region(n=30, d=6, temperatures=(0.05, 0.5), delta=0.02, seed=4, progress=shares.append)
    values = [0.2231215, 3.0255564]
    assert result.numbers == close(
        dict(zip(("margin at temperature 0.05", "margin at temperature 0.5"), values, strict=True))
    )
    (name, lines), *_ = result.curves.items()
    assert (name, list(lines)) == ("margin that ends the optimisation", ["by temperature"])
    assert lines["by temperature"][0] == [0.05, 0.5]
    assert lines["by temperature"][1] == close(values)
    assert shares == [0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        (
            {"d": 2, "spread": 0.05},
            (0.7469394, 0.7463645, 0.6020960, 0.02418044, 0.1109679, 1.425793e-06, 1, 0.2457908),
        ),
        (
            {"d": 3, "spread": 0.05, "sphere": True, "gap": 2.0},
            (1.996564, 0.7386916, 0.02661355, 0.001215362, 3.545530e-04, 1.087052e-06, 1, 0.1484268),
        ),
        (
            {"d": 3, "spread": 0.2, "flat": True},
            (0.7569911, 0.7486990, 0.1355927, 0.1224283, 0.05542431, 1.284543e-05, 1, 0.2331032),
        ),
    ],
)
def test_clusters(settings, numbers):
    shares = []
    result = clusters(
        **({"gap": 0.75} | settings),
        n=8,
        temperature=0.2,
        steps=250,
        lr=0.002,
        growth=5.0,
        seed=1,
        progress=shares.append,
    )
    names = (
        *("gap before", "gap after", "orthogonality before", "orthogonality after"),
        *("variance of S before", "variance of S after", "relative alignment", "loss after"),
    )
    assert result.numbers == close(dict(zip(names, numbers, strict=True)), 5e-3)
    assert result.published == {}
    assert list(result.curves) == ["loss", "gap", "orthogonality", "log10 variance of S"]
    for name, last in (("loss", "loss after"), ("gap", "gap after"), ("orthogonality", "orthogonality after")):
        steps, values = result.curves[name][""]
        assert steps == list(range(0, 251, 2))
        assert values[-1] == result.numbers[last]
    assert shares == [step / 250 for step in range(0, 251, 2)]


def test_ablation():
    shares = []
    result = ablation(6, (0.2, 2.0), (0.0, 0.5), (2, 3), 4.0, seed=5, progress=shares.append)
    names = [f"d {d}, gap {gap:g}, temperature {t:g}" for d in (2, 3) for gap in (0, 0.5) for t in (0.2, 2)]
    assert list(result.numbers) == names
    # Each is clusters of its own settings; a step is a tenth of the temperature long.
    for d, gap, temperature, steps in ((2, 0.0, 2.0, 20), (3, 0.5, 0.2, 200)):
        alone = clusters(6, d, gap, 0.01, temperature, steps, 0.1 * temperature, 1.0, sphere=True, seed=5)
        assert result.numbers[f"d {d}, gap {gap:g}, temperature {temperature:g}"] == alone.numbers["gap after"]
    assert list(result.curves) == [f"gap after training by temperature, {d} dimensions" for d in (2, 3)]
    lines = result.curves["gap after training by temperature, 3 dimensions"]
    assert list(lines) == ["gap 0 at first", "gap 0.5 at first"]
    assert lines["gap 0.5 at first"] == ([0.2, 2.0], [result.numbers[name] for name in names[6:]])
    assert shares == [k / 8 for k in range(1, 9)]


def test_moments_are_the_nearest_of_those_that_are_kept():
    result = clusters(8, 3, 2.0, 0.05, 0.2, 250, 0.002, 1.0, sphere=True, moments=(0.1, 0.4011))
    steps, gaps = result.curves["gap"][""]
    assert result.numbers["gap at time 0.1"] == gaps[steps.index(50)]
    assert result.numbers["gap at time 0.4011"] == gaps[steps.index(200)]
    assert result.numbers["orthogonality at time 0.1"] == result.curves["orthogonality"][""][1][steps.index(50)]


def test_by_number():
    shares = []
    result = by_number((3, 6), steps=50, seed=2, progress=shares.append)
    assert result.numbers == {f"{n} pairs": clusters(n, steps=50, seed=2).numbers["gap after"] for n in (3, 6)}
    (lines,) = result.curves.values()
    assert lines == {"by number of pairs": ([3, 6], list(result.numbers.values()))}
    assert shares == [0.5, 1]


def test_points_on_the_sphere_stay_there_and_steps_grow():
    x, y = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64).flip(0)
    u, v, history = descend(x, y, 3, 0.05, 0.5, sphere=True, growth=8.0)
    for points in (u, v):
        torch.testing.assert_close(points.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert history["step"] == [0, 1, 2, 3]
    # The second of two steps of growth 4 is the first step twice as long.
    once, _, _ = descend(x, y, 1, 0.01, 0.5)
    twice, _, _ = descend(once, descend(x, y, 1, 0.01, 0.5)[1], 1, 0.02, 0.5)
    grown, _, _ = descend(x, y, 2, 0.01, 0.5, growth=4.0)
    torch.testing.assert_close(grown, twice)


def test_orthogonality_is_the_mean_cosine_with_the_gap():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    y = torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    assert orthogonality(x, y) == pytest.approx(0.5)  # images lie across, texts along
    assert orthogonality(x, x) == 0


def test_what_each_simulation_is_called_and_shows():
    assert {name: (title, function.__name__) for name, (title, function, _, _) in SIMULATIONS.items()} == {
        "mlp-collapse": ("dimensional collapse by depth", "mlp_collapse"),
        "two-spans": ("a gap in dimensions without gradient", "two_spans"),
        "stable-region": ("the margin that ends the optimisation, by temperature", "stable_region"),
        "plane": ("two clusters of ten points in the plane keep their gap", "clusters"),
        "plane-pairs": ("what remains of it by the number of points", "by_number"),
        "sphere": ("two clusters on the sphere of R^3: an orthogonal gap for a while, and none in the end", "clusters"),
        "sphere-512": ("the same on the sphere of R^512: the loss vanishes and the gap stays", "clusters"),
        "flat": ("no variance along the gap, and yet it closes", "clusters"),
        "warm": ("temperature 1 closes the gap", "clusters"),
        "high-dimension": ("clusters on the sphere of R^24: S becomes doubly stochastic", "clusters"),
        "ablation": ("what remains of a gap on the sphere, by temperature, initial gap and dimension", "ablation"),
    }
    usual = {name: settings for name, (_, _, settings, _) in SIMULATIONS.items()}
    assert usual["sphere"]["sphere"] is usual["high-dimension"]["sphere"] is True
    assert usual["warm"]["temperature"] == 1
    assert usual["flat"]["flat"] is True
    for settings, small in ((s, small) for _, _, s, small in SIMULATIONS.values()):
        kind = {k: v for k, v in settings.items() if k in ("sphere", "flat", "temperature")}
        assert kind == {k: v for k, v in small.items() if k in ("sphere", "flat", "temperature")}
