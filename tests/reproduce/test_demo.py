import json

import numpy as np
from PIL import Image

from gapless.reproduce.demo import COLUMNS
from tests.runs import run


def test_the_demo_from_start_to_table(tmp_path):
    told = run("reproduce", "demo", "--output", str(tmp_path / "demo"), "--quick")
    rows = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert list(rows) == ["before", "clip", "cua", "cuaxu"]
    for scores in rows.values():
        assert {column.metric for column in COLUMNS} <= set(scores)
        assert scores["test/num_samples"] == 395
    table = (tmp_path / "demo" / "table.md").read_text()
    assert f"{rows['cua']['test/centroid_distance']:.3f}" in table
    assert f"{rows['cua']['test/centroid_distance']:.3f}" in told
    with Image.open(tmp_path / "demo" / "embeddings.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    # All four begin alike: the same projections, because of the same seed.
    again = run("reproduce", "demo", "--output", str(tmp_path / "demo"), "--quick")
    assert again.count("is finished") == 4
