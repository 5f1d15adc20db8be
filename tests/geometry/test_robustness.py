import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import kstest
from scipy.stats import t as student_t

from gapless.geometry import close_gap, quantisation_robustness, robustness
from gapless.geometry.robustness import (
    FAMILIES,
    choice_robustness,
    draw_noise,
    nearest,
    own_gap,
    quantise,
    quantise_binary,
    quantise_int8,
    rephrasing_correlation,
    white_noise_correlation,
)
from tests.runs import run


def clouds(n=300, c=20, d=32, offset=0.7, seed=0):
    """Images around class prompts that lie in a subspace, apart along the last dimension, where prompts do not vary."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.cat([torch.randn(c, d - 1, generator=generator) * 0.12, torch.zeros(c, 1)], dim=1)
    labels = torch.randint(0, c, (n,), generator=generator)
    images = prompts[labels] + 0.12 * torch.randn(n, d, generator=generator)
    images[:, -1], prompts[:, -1] = offset, -offset
    return F.normalize(images, dim=1), F.normalize(prompts, dim=1), labels


def plain_nearest(queries, candidates, mode):
    moved = F.normalize(candidates, dim=1) if mode == "cosine" else candidates
    return torch.cdist(queries.double(), moved.double()).argmin(dim=1)


def test_curves_are_those_of_plain_loops():
    x, y, labels = clouds(40, 7, 10)
    gap, alphas = close_gap(x, y, "translate").text_shift, (-0.5, 0.0, 1.0)
    for mode in ("l2", "cosine"):
        found = robustness(x, y, gap, alphas, 0.05, 6, labels=labels, mode=mode, seed=3)
        generator = torch.Generator().manual_seed(3)
        noises = [draw_noise(y.shape, "gaussian", 0.05, generator) for _ in range(6)]
        for a, alpha in enumerate(alphas):
            clean = plain_nearest(x, y + alpha * gap, mode)
            noisy = [plain_nearest(x, y + alpha * gap + noise, mode) for noise in noises]
            stays = torch.stack([(each == clean).double().mean() for each in noisy])
            assert found.robustness[a] == pytest.approx(float(stays.mean()))
            assert found.robustness_error[a] == pytest.approx(float(stays.std() / 6**0.5))
            assert found.accuracy[a] == pytest.approx(float((clean == labels).double().mean()))
            right = torch.stack([(each == labels).double().mean() for each in noisy]).mean()
            assert found.noisy_accuracy[a] == pytest.approx(float(right))


@pytest.mark.parametrize("family", FAMILIES)
def test_closing_an_orthogonal_gap_keeps_accuracy_and_raises_robustness_to_any_noise(family):
    x, y, labels = clouds()
    gap = close_gap(x, y, "orthogonal").text_shift
    found = robustness(x, y, gap, (-1.0, 0.0, 0.5, 1.0), 0.06, 20, family, labels)
    assert len(set(found.accuracy)) == 1
    assert list(found.robustness) == sorted(found.robustness)
    assert found.robustness[-1] > found.robustness[1] + 0.01


def test_choices_of_questions_are_moved_and_searched_one_question_at_a_time():
    generator = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(9, 12, generator=generator), dim=1)
    choices = F.normalize(torch.randn(9, 4, 12, generator=generator), dim=2)
    correct, gap = torch.arange(9) % 4, torch.randn(12, generator=generator) * 0.5
    step = own_gap(choices, gap)
    for question, moved in zip(choices, step, strict=True):
        assert ((question - question.mean(dim=0)) @ moved[0]).abs().max() < 1e-6
        assert float(moved[0] @ (gap - moved[0])) == pytest.approx(0, abs=1e-6)
    found = choice_robustness(images, choices, gap, correct, (0.0, 1.0), 0.2, 5, seed=2)
    generator = torch.Generator().manual_seed(2)
    stays, right = torch.zeros(2), torch.zeros(2)
    for _ in range(5):
        noise = draw_noise(choices.shape, "gaussian", 0.2, generator)
        for a in (0, 1):
            for q in range(9):
                moved = choices[q] + a * step[q]
                clean = int(torch.cdist(images[q : q + 1], moved).argmin())
                noisy = int(torch.cdist(images[q : q + 1], moved + noise[q]).argmin())
                stays[a] += (noisy == clean) / 45
                right[a] += (noisy == int(correct[q])) / 45
    torch.testing.assert_close(torch.tensor(found.robustness), stays)
    torch.testing.assert_close(torch.tensor(found.noisy_accuracy), right)
    assert found.accuracy[0] == found.accuracy[1]  # moved orthogonally to its choices, a question keeps its answer


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_has_mean_zero_and_the_variance_asked_for(family):
    noise = draw_noise((400, 500), family, 0.025, torch.Generator().manual_seed(0)).double()
    assert abs(float(noise.mean())) < 5 * 0.025 / 200_000**0.5
    assert float(noise.std()) == pytest.approx(0.025, rel=0.02)


MOMENTS = {  # largest value in deviations and its tolerance, and kurtosis and its tolerance
    "gaussian": (5.0, 0.8, 3.0, 0.1),
    "uniform": (3**0.5, 0.001, 1.8, 0.02),
    "laplace": (8.5, 1.7, 6.0, 0.4),
    "rademacher": (1.0, 1e-6, 1.0, 1e-3),
}


@pytest.mark.parametrize("family", MOMENTS)
def test_noise_has_the_shape_of_its_family(family):
    noise = draw_noise((400, 500), family, 0.5, torch.Generator().manual_seed(1)).double() / 0.5
    largest, largest_error, kurtosis, kurtosis_error = MOMENTS[family]
    for side in (noise.max(), -noise.min()):
        assert float(side) == pytest.approx(largest, abs=largest_error)
    assert float(noise.pow(4).mean()) == pytest.approx(kurtosis, abs=kurtosis_error)
    state = torch.get_rng_state()
    draws = [draw_noise((3, 2), family, 0.5, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(state, torch.get_rng_state())


def test_student_noise_has_five_degrees_of_freedom():
    noise = draw_noise((400, 500), "student", 1.0, torch.Generator().manual_seed(1)).flatten().numpy()
    scaled = noise * (5 / 3) ** 0.5  # of variance 1
    assert kstest(scaled, student_t(5).cdf).statistic < 0.004
    assert FAMILIES == ("gaussian", "uniform", "laplace", "rademacher", "student")


def test_one_draw_has_no_error_and_every_draw_is_reported():
    x, y, _ = clouds(20, 5, 8)
    reported = []
    found = robustness(x, y, torch.zeros(8), (0.0, 1.0), 0.1, 1, progress=reported.append)
    assert (found.robustness_error, found.alphas, reported) == ((0.0, 0.0), (0.0, 1.0), [1])
    assert (found.accuracy, found.noisy_accuracy) == ((), ())
    robustness(x, y, torch.zeros(8), (0.0,), 0.1, 3, progress=reported.append)
    assert reported == [1, 1, 2, 3]


def test_noise_of_another_family_or_seed_is_another_curve():
    x, y, _ = clouds(60, 20, 16, 0.0)
    settings = [{}, {"family": "student"}, {"seed": 1}, {"sigma": 0.1}]
    curves = [robustness(x, y, torch.zeros(16), (0.0,), **{"sigma": 0.2, "draws": 4} | s).robustness for s in settings]
    assert len(set(curves)) == 4


def test_the_nearest_of_equals_is_the_first_in_any_number_of_strips(monkeypatch):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    candidates = torch.tensor([[0.0, 0.9], [0.9, 0.0], [0.0, 0.9], [0.9, 0.0], [9.0, 0.0]])
    assert nearest(x, candidates).tolist() == [1, 0, 1]  # by distance; the longest has the largest product
    assert nearest(x, candidates, "cosine").tolist() == [1, 0, 1]
    assert nearest(x, torch.tensor([[0.6, 0.8], [3.0, 3.9]]), "cosine").tolist() == [1, 0, 1]
    whole = robustness(*clouds(20, 5, 8)[:2], torch.ones(8), (0.0, 0.5), 0.2, 3)
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 15)
    assert nearest(x, candidates).tolist() == [1, 0, 1]
    assert robustness(*clouds(20, 5, 8)[:2], torch.ones(8), (0.0, 0.5), 0.2, 3) == whole


def test_a_question_whose_choices_differ_in_rounding_alone_moves_by_the_whole_gap():
    same = torch.tensor([0.6, 0.8, 0.0]).expand(1, 4, 3)
    gap = torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(own_gap(same, gap), gap.view(1, 1, 3))
    tiny = same + torch.tensor([1e-9, 0, 0, 0]).view(1, 4, 1) * torch.eye(3)[0]
    real = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(own_gap(torch.cat([tiny, tiny]), gap)[1, 0], gap)
    torch.testing.assert_close(own_gap(real, gap), torch.tensor([0.1, 0.25, 0.25]).view(1, 1, 3))


def test_quantising_moves_the_candidates_first_and_the_queries_alone():
    queries = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    candidates, gap, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 0.0]), torch.tensor([0, 0])
    found = quantisation_robustness(queries, candidates, gap, lambda f: f.clamp(max=1.0).round(), (0.0, 1.0), labels)
    # Moved by (2, 0) the first candidate becomes (3, 0), cut to (1, 0), and the second (2, 1), cut to (1, 1).
    assert found.accuracy == (0.5, 0.0)
    assert found.noisy_accuracy == (0.5, 0.5)
    assert found.robustness == (1.0, 0.5)
    assert found.robustness_error == (0.0, 0.0)
    assert quantisation_robustness(queries, candidates, gap, torch.sign, (0.5,)).alphas == (0.5,)


def test_quantising_twice_changes_nothing_and_levels_are_centres():
    values = torch.tensor([-9.0, -3.0, -0.01, 0.01, 2.99, 9.0])
    assert quantise(values, 6).tolist() == pytest.approx([-2.5, -2.5, -0.5, 0.5, 2.5, 2.5])
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for levels in (64, 256):
        assert torch.equal(quantise(quantise(x, levels), levels), quantise(x, levels))
        assert (quantise(x.clamp(-2.9, 2.9), levels) - x.clamp(-2.9, 2.9)).abs().max() <= 3 / levels + 1e-6
    torch.testing.assert_close(quantise_int8(quantise_int8(x, 4.0), 4.0), quantise_int8(x, 4.0))
    assert quantise_int8(torch.tensor([5.0, -5.0, 1.0, -1.02]), 2.0).tolist() == pytest.approx(
        [2, -2, 64 * 2 / 127, -65 * 2 / 127]
    )
    assert quantise_binary(torch.tensor([0.0, -0.1, 0.2])).tolist() == [1, -1, 1]


def test_fine_levels_change_no_neighbour_and_coarse_ones_some():
    x, y, labels = clouds()
    gap = close_gap(x, y, "orthogonal").text_shift
    fine = quantisation_robustness(x, y, gap, lambda f: quantise(f, 2**16), (0.0, 1.0), labels)
    assert fine.robustness == (1.0, 1.0)
    assert fine.noisy_accuracy == fine.accuracy
    coarse = quantisation_robustness(x, y, gap, lambda f: quantise(f, 64), (0.0, 1.0), labels)
    assert max(coarse.robustness) < 1


def test_binary_codes_rank_as_hamming_distances_do():
    x, y, _ = clouds(30, 20, 16)
    bits_x, bits_y = x >= 0, y >= 0
    hamming = (bits_x[:, None] != bits_y[None]).sum(dim=2)
    codes = torch.cdist(quantise_binary(x), quantise_binary(y)).square() / 4
    torch.testing.assert_close(codes, hamming.float(), rtol=0, atol=1e-3)


def test_white_noise_is_the_baseline_of_rephrasings():
    # Readings of the decision table: 0.58 for 1,000 texts in 512 dimensions, 0.99 for 10.
    assert white_noise_correlation(1000, 512) == pytest.approx(0.58, abs=0.01)
    assert white_noise_correlation(10, 512) == pytest.approx(0.99, abs=0.01)
    texts = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    assert rephrasing_correlation(texts, texts + torch.randn(5000, 4)) < 0.05
    along = torch.randn(5000, 1) * torch.ones(1, 4)
    assert rephrasing_correlation(texts, texts + along) == pytest.approx(3**0.5 / 2, abs=0.01)


def test_the_command_prints_curves_and_draws_them(tmp_path):
    x, y, _ = clouds(60, 60)
    save_file({"image": x.contiguous(), "text": y.contiguous()}, tmp_path / "e.safetensors")
    kinds = ("--sigmas=[0.02,0.05]", "--levels=[128]", "--noise=[gaussian,laplace]", "--codes=[int8,binary]")
    place = (str(tmp_path / "e.safetensors"), "--output", str(tmp_path / "r.json"))
    printed = run("robustness", *place, *kinds, "--draws=3", "--method=approximate")
    tree = json.loads((tmp_path / "r.json").read_text())
    wanted = {"gaussian 0.02", "gaussian 0.05", "laplace 0.02", "laplace 0.05", "128 levels", "int8", "binary"}
    assert set(tree["curves"]) == wanted
    assert f"{tree['curves']['laplace 0.05']['robustness'][-1]:.4f}" in printed
    assert (tmp_path / "r.png").stat().st_size > 5000
    assert tree["curves"]["int8"]["robustness"][0] > tree["curves"]["binary"]["robustness"][0]
    assert "pink is not one of gaussian" in run("robustness", str(tmp_path / "e.safetensors"), "--noise=[pink]", code=2)


def test_classes_from_files(tmp_path):
    x, y, labels = clouds(60, 6, 12)
    save_file({"image": x}, tmp_path / "x.safetensors")
    save_file({"text": y}, tmp_path / "y.safetensors")
    np.save(tmp_path / "labels.npy", labels.numpy())
    arguments = [f"--images={tmp_path / 'x.safetensors'}", f"--texts={tmp_path / 'y.safetensors'}", "--draws=3"]
    run("robustness", *arguments, f"--labels={tmp_path / 'labels.npy'}", f"--output={tmp_path / 'r.json'}")
    curve = json.loads((tmp_path / "r.json").read_text())["curves"]["gaussian 0.025"]
    expected = robustness(x, y, close_gap(x, y, "orthogonal").text_shift, draws=3, labels=labels)
    assert curve["noisy_accuracy"] == pytest.approx(expected.noisy_accuracy)
    np.save(tmp_path / "labels.npy", labels.numpy() + 1)
    assert "is none of 6 candidates" in run("robustness", *arguments, f"--labels={tmp_path / 'labels.npy'}", code=3)
    assert "row i of both must be one pair" in run("robustness", *arguments, code=3)
