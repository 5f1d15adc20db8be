import json

import numpy as np
import pytest
from PIL import Image

from gapless.config import load_config, with_changes
from gapless.reproduce import emoji
from gapless.reproduce.demo import COLUMNS
from tests.runs import TINY, run


def test_the_demo_from_start_to_table(tmp_path, monkeypatch):
    def smaller(path):
        config = load_config(path)
        return with_changes(config, model={"architecture": TINY}) if config.model.architecture else config

    monkeypatch.setattr(emoji, "load_config", smaller)
    printed = run("reproduce", "demo", "--output", str(tmp_path / "demo"), "--quick")
    rows = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert list(rows) == ["before", "clip", "cua", "cuaxu"]
    for scores in rows.values():
        assert {column.metric for column in COLUMNS} <= set(scores)
        assert scores["test/num_samples"] == 567
    table = (tmp_path / "demo" / "table.md").read_text()
    assert f"{rows['cua']['test/centroid_distance']:.3f}" in table
    assert f"{rows['cua']['test/centroid_distance']:.3f}" in printed
    with Image.open(tmp_path / "demo" / "embeddings.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    # All four begin alike: the same projections, because of the same seed.
    again = run("reproduce", "demo", "--output", str(tmp_path / "demo"), "--quick")
    assert again.count("is finished") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--edition=coco"), "edition: demo does not use it"),
        (("demo", "--jobs=2"), "jobs: demo does not use it"),
        (("demo", "--source=x"), "source: demo does not use it"),
        (("demo", "--seeds=[2]"), "seeds: demo does not use it"),
        (("demo", "--dimensions=[2]"), "dimensions: demo does not use it"),
        (("demo", "--allow_missing"), "allow_missing: demo does not use it"),
        (
            ("bug-or-feature", "--only=geometry"),
            "only: bug-or-feature does not use it (it takes",
        ),
        (("bug-or-feature", "--edition=coco"), "edition: bug-or-feature does not use it"),
        (("contrastive-gap", "--source=x"), "source: contrastive-gap does not use it"),
        (("contrastive-gap", "--root=x"), "root: contrastive-gap does not use it"),
        (("contrastive-gap", "--edition=coco", "--karpathy=x"), "karpathy: contrastive-gap coco does not use it"),
        (
            ("connect-collapse-corrupt", "--data_path=x"),
            "data_path: connect-collapse-corrupt captioning",
        ),
        (
            ("connect-collapse-corrupt", "--only=geometry", "--edition=coco"),
            "connect-collapse-corrupt geometry",
        ),
        (("contrastive-gap", "--dimensions=[]"), "dimensions: name at least one"),
        (("contrastive-gap", "--seeds=[]"), "seeds: name at least one"),
        (("contrastive-gap", "--seeds=[1, 2, 1]"), "seeds: one is named twice"),
        (("contrastive-gap", "--seeds=[-1]"), "seeds: -1 does not work"),
        (("contrastive-gap", "--dimensions=[0]"), "dimensions: 0 does not work"),
        (("contrastive-gap", "--jobs=0"), "jobs: 0 does not work"),
        (("contrastive-gap", "--jobs=-1"), "jobs: -1 does not work"),
    ],
)
def test_what_an_experiment_does_not_use_is_refused(arguments, message, tmp_path):
    assert message in run("reproduce", *arguments, f"--output={tmp_path / 'out'}", code=2)
    assert list(tmp_path.iterdir()) == []
