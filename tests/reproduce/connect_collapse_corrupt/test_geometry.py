"""From a space to connect-collapse-corrupt's geometry tables: which definition, side and epoch a cell is of."""

from gapless.geometry import effective_dimension
from gapless.reproduce.connect_collapse_corrupt import geometry
from tests.reproduce.spaces import keep, space, texts


def test_table_1_has_both_definitions_beside_the_paper(monkeypatch):
    asked = []

    def statistics(x, y, group, definition):
        asked.append((len(x), y is texts_, group))
        base = {"paper": 0.0, "code": 0.5}[definition]
        return {
            f"{name}_{part}": base + k / 10 + (0.01 if part == "std" else 0)
            for k, name in enumerate(
                ("gap_length", "gap_direction", "gap_orthogonality", "noise_mean", "noise_direction")
            )
            for part in ("mean", "std")
        }

    images, texts_ = space(60)
    monkeypatch.setattr(geometry, "gap_statistics", statistics)
    table = geometry._statistics(images, texts_)
    assert asked == [(60, True, 20)] * 2
    assert table.title == "Table 1: the gap is a constant, orthogonal vector with noise around it"
    assert table.header == ["", "ours", "ours, as its code computes", "paper"]
    assert texts(table) == [
        ["length of the gap", "0.000 ± 0.010", "0.500 ± 0.510", "0.830 ± 0.010"],
        ["cosine of two groups' gaps", "0.100 ± 0.110", "0.600 ± 0.610", "0.990 ± 0.000"],
        ["cosine of gap and image differences", "0.200 ± 0.210", "0.700 ± 0.710", "0.000 ± 0.060"],
        ["mean of the noise", "0.300 ± 0.310", "0.800 ± 0.810", "0.000 ± 0.000"],
        ["cosine of two pairs' noise", "0.400 ± 0.410", "0.900 ± 0.910", "0.000 ± 0.100"],
    ]
    assert table.note == (
        "Mean and standard deviation; ours over groups of 20 of 60 pairs. Paper: CLIP ViT-B/32 on COCO."
    )
    monkeypatch.setattr(
        geometry,
        "gap_statistics",
        lambda x, y, group, definition: asked.append(group) or statistics(x, y, group, definition),
    )
    images, texts_ = space(600)
    geometry._statistics(images, texts_)
    assert asked[2] == 100


def test_figure_3_is_by_epoch(tmp_path):
    sides = [keep(tmp_path, epoch, seed) for epoch, seed in ((0, 1), (7, 2))]
    table = geometry._dimensions(tmp_path)
    assert table.title == "Figure 3: effective dimensions (99 %)"
    assert table.header == ["", "images", "texts", "of"]
    expected = [[str(effective_dimension(x)), str(effective_dimension(y)), "5"] for x, y in sides]
    assert expected[0][0] != expected[0][1]
    assert texts(table) == [
        ["after epoch 0", *expected[0]],
        ["after epoch 7", *expected[1]],
        ["paper: CLIP at initialisation", "25", "230", "512"],
    ]


def test_a_space_of_no_run_has_no_epochs(tmp_path):
    x, y = keep(tmp_path, 3, 0)
    assert [table.title.partition(":")[0] for table in geometry.geometry_tables(x, y, None)] == ["Table 1"]
    tables = geometry.geometry_tables(x, y, tmp_path)
    assert [table.title.partition(":")[0] for table in tables] == ["Table 1", "Figure 3"]
