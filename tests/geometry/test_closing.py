import logging
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from gapless.errors import ConfigError, DataError
from gapless.geometry import Transform, centroid_distance, close_gap, linear_separability
from gapless.geometry.closing import METHODS
from gapless.geometry.spectrum import principal_components
from tests.runs import run


def clouds(n=200, m=200, d=32, texts_in=20, offset=0.6, seed=0):
    """Images everywhere, texts in a subspace, apart along a direction that is neither."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * 0.1
    y = torch.zeros(m, d, dtype=torch.float64)
    y[:, :texts_in] = torch.randn(m, texts_in, generator=generator, dtype=torch.float64) * 0.1
    shift = torch.full((d,), offset / d**0.5, dtype=torch.float64)
    return F.normalize(x + shift, dim=1), y - shift


def nearest(queries, candidates):
    return torch.cdist(queries.double(), candidates.double()).argmin(dim=1)


def test_the_moved_direction_is_orthogonal_to_all_differences_of_texts():
    x, y = clouds()
    shift = close_gap(x, y, "orthogonal").text_shift.double()
    centred = y - y.mean(dim=0)
    assert (centred @ shift).abs().max() < 1e-7
    gap = x.mean(dim=0) - y.mean(dim=0)
    assert float(shift @ gap) == pytest.approx(float(shift @ shift), rel=1e-5)  # a projection of the gap


@pytest.mark.parametrize("moved", ["text", "image"])
def test_no_nearest_neighbour_changes_under_the_exact_projection(moved):
    x, y = clouds() if moved == "text" else clouds()[::-1]
    queries, candidates = (x, y) if moved == "text" else (y, x)
    before = nearest(queries, candidates)
    assert len(before.unique()) > 10
    for alpha in (-1.0, -0.3, 0.5, 1.0, 1.5):
        transform = close_gap(x, y, "orthogonal", alpha, moved=moved)
        after = transform.text(y) if moved == "text" else transform.image(x)
        assert torch.equal(nearest(queries, after), before), alpha


def test_a_dot_product_ranking_is_flat_in_alpha_for_any_translation():
    x, y = clouds()
    before = (x @ y.T).argsort(dim=1)
    for method in ("translate", "orthogonal"):
        moved = close_gap(x, y, method, 0.7).text(y.double())
        assert torch.equal((x @ moved.T).argsort(dim=1), before)


def test_what_spans_the_space_is_told_of_algorithm_1(caplog):
    x, y = clouds(m=300, texts_in=32)
    with caplog.at_level(logging.WARNING):
        exact = close_gap(x, y, "orthogonal")
    assert "Algorithm 1" in caplog.text
    assert exact.text_shift.norm() < 1e-6
    approximate = close_gap(x, y, "approximate", epsilon=0.2)
    assert 0 < approximate.fit["components"] < 32
    assert approximate.fit["share_of_gap"] > 0.1


def test_readings_of_epsilon_keep_the_components_that_they_say():
    deviations = torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    rotated = torch.linalg.qr(torch.randn(2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    rotated = torch.linalg.qr(rotated - rotated.mean(dim=0)).Q  # centred, orthonormal columns
    points = rotated * deviations * 1999**0.5  # variances 4, 1, .25, .01 of 5.26
    for reading, epsilon, kept in (
        ("cumulative", 0.01, 3),
        ("cumulative", 0.06, 2),
        ("cumulative", 0.3, 1),
        ("relative", 0.06, 3),
        ("relative", 0.3, 2),
        ("absolute", 0.02, 3),
        ("absolute", 0.3, 2),
    ):
        assert principal_components(points, epsilon, reading).shape == (4, kept), (reading, epsilon)
    assert principal_components(points[:3]).shape == (4, 2)  # three points span a plane


def test_each_method_does_what_its_name_says():
    x, y = clouds(texts_in=32)
    y = F.normalize(y, dim=1)
    mean = close_gap(x, y, "mean")
    assert centroid_distance(mean.image(x), mean.text(y)) < 1e-6
    half = close_gap(x, y, "translate", 0.5)
    assert centroid_distance(x, half.text(y)) == pytest.approx(centroid_distance(x, y) / 2, rel=1e-5)
    standard = close_gap(x, y, "standardise")
    for side in (standard.image(x), standard.text(y)):
        torch.testing.assert_close(side.std(dim=0), torch.ones(32).double(), rtol=1e-5, atol=1e-5)
    rotation = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    turned = close_gap(x, x @ rotation, "procrustes")
    torch.testing.assert_close(turned.text(x @ rotation), x, rtol=0, atol=1e-5)
    assert mean.image(x, renormalise=True).norm(dim=1).sub(1).abs().max() < 1e-6


IMAGES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # mean (1/2, 1/2, 0), which differ by (1, -1, 0)
TEXTS = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]])  # mean (3/10, 0, 9/10), which differ by (3, 0, -1)
GAP = torch.tensor([0.2, 0.5, -0.9])  # from the texts to the images


@pytest.mark.parametrize(
    ("method", "arguments", "image_shift", "text_shift", "fit"),
    [
        ("mean", {}, [-0.5, -0.5, 0.0], [-0.3, 0.0, -0.9], {}),
        ("translate", {"alpha": 0.5}, None, GAP / 2, {"alpha": 0.5, "moved": "text", "share_of_gap": 1.0}),
        ("translate", {"moved": "image"}, -GAP, None, {"alpha": 1.0, "moved": "image", "share_of_gap": 1.0}),
        # The gap minus its part along (3, 0, -1), 15 / 100 of it; and along (1, -1, 0), -15 / 100.
        ("orthogonal", {"alpha": 2.0}, None, 2 * (GAP - torch.tensor([0.45, 0.0, -0.15])),
         {"alpha": 2.0, "moved": "text", "share_of_gap": (0.875 / 1.1) ** 0.5}),
        ("orthogonal", {"moved": "image"}, -GAP + torch.tensor([-0.15, 0.15, 0.0]), None,
         {"alpha": 1.0, "moved": "image", "share_of_gap": (1.055 / 1.1) ** 0.5}),
        ("approximate", {"epsilon": 0.25, "reading": "relative"}, None, GAP - torch.tensor([0.45, 0.0, -0.15]),
         {"alpha": 1.0, "moved": "text", "epsilon": 0.25, "reading": "relative", "components": 1.0,
          "share_of_gap": (0.875 / 1.1) ** 0.5}),
    ],
)  # fmt: skip
def test_shifts_by_hand(method, arguments, image_shift, text_shift, fit):
    transform = close_gap(IMAGES, TEXTS, method, **arguments)
    assert (transform.method, transform.fit) == (method, pytest.approx(fit))
    for found, expected in ((transform.image_shift, image_shift), (transform.text_shift, text_shift)):
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, torch.as_tensor(expected))
    assert (transform.image_matrix, transform.text_matrix) == (None, None)


def test_standardising_and_rotating_move_the_side_that_they_say():
    x, y = clouds(n=40, m=40, d=3, texts_in=3)
    standard = close_gap(x, y, "standardise")
    torch.testing.assert_close(standard.image_shift, (-x.mean(dim=0) / x.std(dim=0)).float())
    torch.testing.assert_close(standard.text_matrix, (1 / y.std(dim=0)).diag().float())
    assert not torch.equal(standard.image_matrix, standard.text_matrix)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turned = close_gap(x, x @ rotation, "procrustes", moved="image")
    torch.testing.assert_close(turned.image(x), x @ rotation, rtol=0, atol=1e-5)
    assert torch.equal(turned.text(x), x)


def test_choices_of_questions_are_moved_along_their_last_axis():
    x, y = clouds(texts_in=32)
    transform = close_gap(x, y, "translate", 0.5)
    moved = transform.text(y.reshape(50, 4, 32), renormalise=True)
    torch.testing.assert_close(moved.reshape(200, 32), transform.text(y, renormalise=True))
    torch.testing.assert_close(moved.norm(dim=2), torch.ones(50, 4).double())


def test_rounding_adds_no_component():
    # Eleven dimensions of which three are sums of others: eight components, whose order the fast way keeps.
    points = torch.randn(400, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = torch.cat([points, points[:, :3] - points[:, 3:6]], dim=1)
    for rows in (points, points[:30]):
        assert principal_components(rows).shape == (11, 8)
    leading = principal_components(points * torch.tensor([9.0, *[1.0] * 10]), 0.5)
    assert leading.shape == (11, 1)
    assert leading[0].abs() > 0.99


def test_fitted_on_one_half_the_means_leave_the_other_inseparable():
    x, y = clouds(2000, 2000, texts_in=32)
    transform = close_gap(x[:1000], y[:1000], "mean")
    moved = transform.image(x[1000:]), transform.text(y[1000:])
    assert linear_separability(x[1000:], y[1000:]) == 1
    assert abs(linear_separability(*moved) - 0.5) < 0.12


def test_the_command_knows_every_method_and_none_besides():
    taken = re.search(
        r"is not one of ([\w, ]+)", run("close", "x.npz", "--method=none", "--output=t.safetensors", code=2)
    )
    assert taken
    assert taken[1].strip().split(", ") == list(METHODS)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("mean", set()),
        ("translate", {"alpha", "moved"}),
        ("orthogonal", {"alpha", "moved"}),
        ("approximate", {"alpha", "epsilon", "reading", "moved"}),
        ("procrustes", {"moved"}),
        ("standardise", set()),
    ],
)
def test_a_method_fits_otherwise_by_the_arguments_that_it_says_it_uses_and_by_no_other(method, arguments):
    x, y = clouds(texts_in=32)
    y = F.normalize(y + 0.2, dim=1)
    assert set(METHODS[method].arguments) == arguments
    for name, value in {"alpha": 0.3, "epsilon": 0.4, "reading": "relative", "moved": "image"}.items():
        fit, other = close_gap(x, y, method, epsilon=0.3), close_gap(x, y, method, **{"epsilon": 0.3, name: value})
        same = torch.equal(fit.image(x), other.image(x)) and torch.equal(fit.text(y), other.text(y))
        assert same == (name not in arguments), name


@pytest.mark.parametrize("method", METHODS)
def test_a_file_brings_the_transform_back(tmp_path, method):
    x, y = clouds(texts_in=32)
    transform = close_gap(x, y, method)
    transform.save(tmp_path / "t.safetensors")
    again = Transform.load(tmp_path / "t.safetensors")
    assert torch.equal(again.text(y), transform.text(y))
    assert torch.equal(again.image(x), transform.image(x))
    assert (again.method, again.fit) == (method, transform.fit)


def test_what_cannot_work_is_named(tmp_path):
    x, y = clouds()
    with pytest.raises(ConfigError, match="method=whiten does not work, it must be one of mean, translate"):
        close_gap(x, y, "whiten")
    with pytest.raises(ConfigError, match="epsilon=1.0 does not work"):
        close_gap(x, y, "approximate", epsilon=1.0)
    with pytest.raises(DataError, match="dimension 20 of the texts is constant \\(12 are\\)"):
        close_gap(x, y, "standardise")
    with pytest.raises(DataError, match="procrustes needs pairs"):
        close_gap(x, y[:50], "procrustes")
    with pytest.raises(DataError, match="is for 32 dimensions, the features have 7"):
        close_gap(x, y).image(x[:, :7])
    for name, tensor in (("other", torch.ones(2)), ("text_shift", torch.ones(2, 2)), ("image_matrix", torch.ones(2))):
        save_file({name: tensor}, tmp_path / "o.safetensors", {"method": "mean", "told": "{}"})
        with pytest.raises(DataError, match="is no transform"):
            Transform.load(tmp_path / "o.safetensors")
    with pytest.raises(DataError, match="is not there"):
        Transform.load(tmp_path / "gone.safetensors")


def test_the_command_fits_on_one_file_and_applies_to_another(tmp_path):
    x, y = clouds(texts_in=32)
    y = F.normalize(y, dim=1)
    for name, rows in (("fit", slice(0, 100)), ("rest", slice(100, 200))):
        save_file({"image": x[rows].contiguous(), "text": y[rows].contiguous()}, tmp_path / f"{name}.safetensors")
    fit, rest, output = (str(tmp_path / f"{name}.safetensors") for name in ("fit", "rest", "t"))
    places = ("--apply", rest, "--output", output, "--moved-output", str(tmp_path / "moved.safetensors"))
    printed = run("close", fit, "--method=mean", *places)
    assert "On the embeddings of --apply" in printed
    moved = load_file(tmp_path / "moved.safetensors")
    expected = x[100:].float() - x[:100].float().mean(dim=0)
    torch.testing.assert_close(moved["image"], expected, rtol=0, atol=1e-6)
    assert "moved: audio" in run("close", fit, "--moved=audio", f"--output={output}", code=2)
    assert "must end in" in run("close", fit, "--output=t.pt", code=2)
