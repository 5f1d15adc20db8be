import pytest
import torch
import torch.nn.functional as F

from gapless.decode import Preparation, collapse, corrupt
from gapless.decode.transforms import orthogonal_shift
from gapless.errors import DataError


def clouds(n=4000, d=12, gap=0.6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    x[:, 0] = gap * 4
    y = torch.randn(n, d, generator=generator)
    y[:, 0] = -gap * 4
    return F.normalize(x, dim=1), F.normalize(y, dim=1)


def test_collapse_leaves_no_gap_and_all_differences():
    x, y = clouds()
    a, b = collapse(3 * x, x.mean(dim=0)), collapse(y, y.mean(dim=0))  # any length: rows are normalised first
    assert (a.mean(dim=0) - b.mean(dim=0)).norm() < 1e-6
    torch.testing.assert_close(a[0] - a[1], x[0] - x[1])


def test_noise_in_the_span_has_no_part_along_the_gap_and_the_rest_unchanged():
    x, y = clouds(50)
    noise, gap = torch.randn(50, 12), x.mean(dim=0) - y.mean(dim=0)
    spanned = corrupt(x, noise, gap) - x
    assert (spanned @ F.normalize(gap, dim=0)).abs().max() < 1e-6
    across = noise - (noise @ F.normalize(gap, dim=0))[:, None] * F.normalize(gap, dim=0)
    torch.testing.assert_close(spanned, across)
    torch.testing.assert_close(corrupt(x, noise), x + noise)


def test_a_preparation_is_normalise_minus_mean_plus_noise_normalise():
    x, y = clouds(30)
    means = {"image": x.mean(dim=0), "text": y.mean(dim=0)}
    given, noise = 2 * y, torch.randn(30, 12)
    kept = given.clone()
    found = Preparation(True, 0.3, None, True, means)(given, "text", noise)
    by_hand = torch.stack([row / row.norm() - means["text"] + 0.3 * e for row, e in zip(given, noise, strict=True)])
    torch.testing.assert_close(found, by_hand / by_hand.norm(dim=1, keepdim=True))
    assert torch.equal(given, kept)  # the stored embeddings stay as they are
    without = Preparation(True, 0.3, None, False, means)(given, "text")
    torch.testing.assert_close(without, y - means["text"])  # no noise unless it is given
    plain = Preparation(False, 0.0, None, True)(given, "audio", noise)
    torch.testing.assert_close(plain, y)
    with pytest.raises(DataError, match="no mean of modality audio"):
        Preparation(True, means=means)(given, "audio")


def test_the_shift_of_the_gap_test_is_orthogonal_to_where_points_vary():
    points = torch.randn(100, 6) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    shift = orthogonal_shift(points, 0.7)
    assert shift.norm() == pytest.approx(0.7)
    assert ((points - points.mean(dim=0)) @ shift).abs().max() < 1e-5


def test_the_direction_of_a_span_goes_from_the_second_mean_to_the_first():
    means = {"image": torch.tensor([1.0, 0]), "text": torch.tensor([0.0, 2])}
    assert Preparation(span_of=("image", "text"), means=means).direction.tolist() == [1, -2]
    assert Preparation(span_of=("text", "image"), means=means).direction.tolist() == [-1, 2]
    assert Preparation(means=means).direction is None
    with pytest.raises(DataError) as error:
        Preparation(span_of=("audio", "text"), means=means).direction  # noqa: B018
    assert str(error.value) == "there is no mean of modality audio (of: image, text), which collapse subtracts"
    with pytest.raises(DataError, match=r"\(of: none\)"):
        Preparation()(torch.eye(2), "text")


def test_noise_of_a_span_is_scaled_and_has_no_part_along_it():
    means = {"image": torch.tensor([1.0, 0, 0]), "text": torch.tensor([0.0, 1, 0])}
    noise = torch.tensor([[1.0, 3.0, 5.0]])
    spanned = Preparation(False, 0.1, ("image", "text"), False, means)
    found = spanned(torch.tensor([[0.0, 0, 2]]), "text", noise)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.2, 1.5]]))  # along (1, -1, 0) nothing is left
    assert not Preparation(False, 0.0, ("image", "text"), False, means)(torch.eye(3), "text", noise).isnan().any()


def test_a_mean_more_replaces_one_and_leaves_the_preparation_as_it_was():
    first = Preparation(True, 0.2, None, False, {"image": torch.ones(2)})
    more = first.with_mean("audio", torch.zeros(2)).with_mean("image", torch.full((2,), 3.0))
    assert {name: mean.tolist() for name, mean in more.means.items()} == {"image": [3, 3], "audio": [0, 0]}
    assert first.means.keys() == {"image"}
    assert (more.collapse, more.noise, more.span_of, more.renormalise) == (True, 0.2, None, False)


def test_half_precision_is_prepared_in_single():
    assert Preparation(False)(torch.ones(1, 4).half(), "text").dtype == torch.float32
