import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import image_caption_selection
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, average_precision_score, v_measure_score

from gapless.eval.metrics.grouping import intra_modal_retrieval, joint_clustering, mixed_recall
from gapless.eval.metrics.probe import fit_linear_probe, probe_scores
from gapless.eval.metrics.selection import selection_hits


def classes(n=60, k=3, d=8, offset=0.0):
    """Tight clusters around k axes; the texts lie ``offset`` away along another one."""
    labels = torch.arange(n) % k
    noise = 0.05 * torch.randn(2, n, d, generator=torch.Generator().manual_seed(1))
    images = F.normalize(torch.eye(d)[labels] + noise[0], dim=1)
    texts = F.normalize(torch.eye(d)[labels] + offset * torch.eye(d)[-1] + noise[1], dim=1)
    return images, texts, labels


def test_clusters_are_the_classes_unless_a_gap_is_wider():
    images, texts, labels = classes()
    close = joint_clustering(images, texts, labels)
    assert close["v_measure"] == pytest.approx(1)
    assert close["ari"] == pytest.approx(1)
    assert close["modality_nmi"] == pytest.approx(0, abs=1e-6)
    images, texts, labels = classes(offset=10.0)
    far = joint_clustering(images, texts, labels)
    assert far["v_measure_image"] == pytest.approx(1)
    assert far["v_measure"] < 0.9
    assert far["modality_nmi"] > 0.3


def test_mixed_retrieval_falls_with_texts_in_the_way(unit):
    x = unit(300, 16).float()
    gap = 1.5 * F.normalize(torch.ones(16), dim=0)
    y = F.normalize(x + 0.35 * unit(300, 16, 1).float(), dim=1)
    found = mixed_recall(F.normalize(x + gap, dim=1), F.normalize(y - gap, dim=1))
    assert found["mixed_recall@1_0"] > 0.5
    assert found["mixed_recall@1_1"] < 0.1
    assert found["mixed_recall_calibrated@1_1"] > 0.3
    together = mixed_recall(x, y)
    assert together["mixed_recall@1_0.5"] > 0.5
    # Without texts in the corpus it is plain retrieval, over the second half of the queries.
    half = torch.randperm(300, generator=torch.Generator().manual_seed(0))[150:]
    plain = ((y @ x.T)[half].argmax(dim=1) == half).double().mean().item()
    assert together["mixed_recall@1_0"] == pytest.approx(plain)


def test_mixed_retrieval_by_hand(monkeypatch):
    # Each text is the next pair's image: with texts as candidates nothing changes for the others.
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 8)
    images = torch.eye(6)
    assert mixed_recall(images, images)["mixed_recall@1_1"] == 1
    assert mixed_recall(images, images.roll(1, 0))["mixed_recall@1_0"] == 0


def mixed_one_by_one(images, texts, share, k, seed, calibrated):
    """The second half of the queries, one after the other, calibrated by the first half."""
    n = len(images)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    is_text = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1)) < share
    fit, scored = order[: n // 2], order[n // 2 :]

    def standardised(rows, value):
        others = torch.stack([texts[a] @ rows[b] for a in fit for b in fit if a != b])
        return float((value - others.mean()) / others.std() if calibrated else value)

    hits = 0
    for query in scored:
        own = standardised(images, texts[query] @ images[query])
        rows = [(texts if is_text[j] else images, j) for j in range(n) if j != query]
        hits += sum(standardised(side, texts[query] @ side[j]) >= own for side, j in rows) < k
    return hits / len(scored)


def test_mixed_retrieval_is_that_of_asking_one_by_one(unit):
    """Of 21 pairs, whose second half lies close together and would calibrate otherwise."""
    x = unit(21, 6).float() + torch.tensor([0, 0, 0, 0, 0, 0.5])
    y = x + 0.9 * unit(21, 6, 1).float() - torch.tensor([0, 0, 0, 0, 0.3, 1.0])
    second = torch.randperm(21, generator=torch.Generator().manual_seed(3))[10:]
    y[second] += torch.tensor([1.5, 0, 0, 0, 0, 0])
    images, texts = F.normalize(x, dim=1), F.normalize(y, dim=1)
    found = mixed_recall(images, texts, (0.3, 0.8), k=2, seed=3)
    expected = {
        f"{name}@2_{share:g}": mixed_one_by_one(images, texts, share, 2, 3, calibrated)
        for share in (0.3, 0.8)
        for name, calibrated in (("mixed_recall", False), ("mixed_recall_calibrated", True))
    }
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) == 4
    same = images[:1].repeat(8, 1)  # equal candidates do not win
    assert {value for name, value in mixed_recall(same, same).items() if "calibrated" not in name} == {0}


def test_intra_modal_retrieval_is_sklearns_average_precision(unit, monkeypatch):
    monkeypatch.setattr("gapless.losses.strips.STRIP_ELEMENTS", 7 * 30)
    x, labels = unit(30, 5), torch.arange(30) % 4
    labels[0] = 9  # alone in its class: no query
    found = intra_modal_retrieval(x, labels)
    scores = x @ x.T
    precisions, firsts = [], []
    for i in range(1, 30):
        others = torch.tensor([j for j in range(30) if j != i])
        right = labels[others] == labels[i]
        precisions.append(average_precision_score(right, scores[i, others]))
        firsts.append(bool(right[scores[i, others].argmax()]))
    assert found["map"] == pytest.approx(sum(precisions) / 29, rel=1e-6)
    assert found["recall@1"] == pytest.approx(sum(firsts) / 29)


def test_rows_without_another_of_their_class_are_no_queries(unit):
    assert intra_modal_retrieval(unit(4, 3), torch.arange(4)) == {"recall@1": 0, "map": 0}


def test_clusters_are_those_of_sklearn():
    images, texts, labels = classes(30, 3, 4, offset=0.8)
    images, texts = images + 0.4 * torch.randn(30, 4), texts + 0.2 * torch.randn(30, 4)
    found = joint_clustering(images, texts, labels, seed=5)
    both = KMeans(3, n_init=10, random_state=5).fit_predict(torch.cat([images, texts]).numpy())
    alone = [KMeans(3, n_init=10, random_state=5).fit_predict(rows.numpy()) for rows in (images, texts)]
    twice = [*labels.tolist(), *labels.tolist()]
    assert found == pytest.approx(
        {
            "v_measure": v_measure_score(twice, both),
            "nmi": v_measure_score(twice, both),
            "ari": adjusted_rand_score(twice, both),
            "modality_nmi": v_measure_score([0] * 30 + [1] * 30, both),
            "v_measure_image": v_measure_score(labels, alone[0]),
            "v_measure_text": v_measure_score(labels, alone[1]),
        }
    )
    assert len({round(value, 6) for value in found.values()}) == 5


def test_the_probe_is_sklearns_logistic_regression(unit):
    x, labels = unit(120, 6).float(), torch.randint(0, 3, (120,))
    weights = fit_linear_probe(x, labels, 3, weight_decay=0.01)
    # sklearn minimises the sum of cross-entropies + |w|^2 / (2 C): C = 1 / (N * weight_decay).
    reference = LogisticRegression(C=1 / (120 * 0.01), max_iter=5000, tol=1e-8).fit(x.numpy(), labels.numpy())
    found = probe_scores(weights, x).softmax(dim=1)
    torch.testing.assert_close(found, torch.from_numpy(reference.predict_proba(x.numpy())).float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("images", "captions"), [(1, 2), (2, 2), (2, 3)])
def test_selection_is_clip_benchmarks(unit, images, captions, monkeypatch):
    found, expected = [], []
    monkeypatch.setattr(image_caption_selection, "tqdm", lambda items: items)

    class Model:
        def encode_image(self, x):
            return x.flatten(1)

        def encode_text(self, x):
            return x

    for k in range(25):
        x, y = unit(images, 4, k).float(), unit(captions, 4, 100 + k).float()
        found.append(selection_hits(x, y))
        batch = [(x.view(1, images, 4, 1, 1), [list(range(captions))])]
        scores = image_caption_selection.evaluate(Model(), batch, lambda texts, y=y: y, "cpu", amp=False)
        expected.append((scores["image_acc"] == 1, scores["text_acc"] == 1))
    assert found == expected
    assert len(set(found)) > 1
