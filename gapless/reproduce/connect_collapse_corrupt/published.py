"""What connect-collapse-corrupt published, on COCO with CLIP ViT-B/32 and, for captions, GPT-2 small."""

METRICS = ("bleu_1", "bleu_4", "meteor", "rouge_l", "cider", "spice")


def _rows(names: str, text: str) -> dict[str, dict[str, float]]:
    lines = [list(map(float, line.split())) for line in text.strip().splitlines()]
    return {name: dict(zip(METRICS, line, strict=True)) for name, line in zip(names.split(), lines, strict=True)}


PUBLISHED = _rows(
    "c1 c2-collapse c2-corrupt c3",
    "28.1 2.4 12.2 25.4 13.0 6.8\n"
    "44.4 6.1 15.5 33.6 25.2 9.2\n"
    "69.0 25.5 24.3 50.8 87.6 17.6\n"
    "71.0 27.7 25.0 52.0 93.3 18.3",
)
"""Table 2; of C3 the mean of three runs, +- 0.3 or less."""

SPAN_NOISE = {
    "c2-collapse": PUBLISHED["c2-collapse"],
    "c2-corrupt": PUBLISHED["c2-corrupt"],
    **_rows("c2-span", "41.2 6.2 14.9 33.6 22.8 8.3"),
}
"""Table 7."""

LOW_DATA = {
    0.01: _rows("pairs c3", "64.5 21.2 21.2 47.6 71.1 14.7\n71.9 28.9 25.3 52.7 96.4 18.3"),
    0.05: _rows("pairs c3", "70.1 26.4 24.0 51.3 89.4 17.3\n72.3 29.4 25.7 53.1 98.8 18.8"),
    0.25: _rows("pairs c3", "73.0 30.0 26.0 53.7 101.7 19.1\n73.4 31.1 26.3 54.3 103.6 19.4"),
    1.0: _rows("pairs c3", "74.0 31.5 26.8 54.7 106.6 19.9\n74.0 32.2 27.1 55.2 108.9 20.2"),
}
"""Table 5: ClipCap, and C3."""

GAP_DISTANCE = {
    0.0: (85.5, 81.2, 83.1),
    0.2: (76.3, 71.5, 73.8),
    0.4: (55.8, 50.6, 52.5),
    0.6: (40.6, 35.9, 36.6),
    0.8: (30.5, 26.7, 26.5),
    1.0: (24.1, 21.0, 20.3),
    1.5: (16.6, 14.4, 13.8),
    2.0: (13.8, 12.1, 11.6),
}
"""Table 6: ROUGE-1, ROUGE-L and METEOR by the length of c."""

STATISTICS = {
    "gap_length": (0.83, 0.01),
    "gap_direction": (0.99, 0.00),
    "gap_orthogonality": (0.00, 0.06),
    "noise_mean": (0.00, 0.00),
    "noise_direction": (0.00, 0.10),
}
"""Table 1, mean and standard deviation."""

INITIAL_DIMENSIONS = (25, 230, 512)
"""Figure 3: effective dimensions of images and of texts of an untrained CLIP, and the dimension of the space."""
