"""What a grid takes for done: the numbers that its own plans came to, and no others."""

import json

from gapless.config import Config, DataConfig, EvalPlan, ModelConfig, with_changes
from gapless.models import build_model, save_export
from gapless.reproduce import grid
from gapless.reproduce.grid import Member, run_member
from gapless.reproduce.scored import scores
from gapless.run_folder import EVALUATED_FILE
from tests.data.pictures import picture
from tests.runs import TINY, run


def test_later_evaluations_do_not_enter_the_tables(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for k in range(8):
        (data / f"{k}.png").write_bytes(picture(seed=k))
        (data / f"{k}.txt").write_text(f"picture {k}\nnumber {k}")
    pairs = DataConfig(source="folder", path=str(data), val_path=str(data))
    plan = EvalPlan(["pairs"], ["gap", "retrieval"], data=pairs, captions="first", workers=0)
    member = Member(with_changes(Config(), name="one", output=str(tmp_path)), plan)
    folder = tmp_path / "one"
    save_export(*build_model(ModelConfig(name="custom", architecture=TINY), seed=4), folder / "export")
    monkeypatch.setattr(grid, "run_training", lambda config: folder)
    assert run_member(member) == {}
    first = scores(folder, "folder").numbers
    assert {"centroid_distance", "image_retrieval_recall@1"} <= set(first)
    shared = ("--datasets=[pairs]", "--data.source=folder", f"--data.path={data}", f"--data.val_path={data}")
    run("eval", str(folder), *shared, "--data.val_samples=6", "--folds=2", "--workers=0", "--no_cache")
    assert len(list((folder / "results").glob("*.json"))) == 4
    assert scores(folder, "folder").numbers == first
    record = (folder / EVALUATED_FILE).stat().st_mtime_ns
    assert run_member(member) == {}
    assert (folder / EVALUATED_FILE).stat().st_mtime_ns == record  # nothing was scored again
    # A file of the plan that another model's numbers replaced is not vouched for: it is scored again.
    path = next(p for p in (folder / "results").glob("*_gap.json"))
    path.write_text(path.read_text().replace('"centroid_distance": ', '"centroid_distance": 7'))
    assert "centroid_distance" not in scores(folder, "folder").numbers
    assert run_member(member) == {}
    assert scores(folder, "folder").numbers == first
    # Nor does a record of earlier versions, which names no numbers, vouch for anything.
    (folder / EVALUATED_FILE).write_text(json.dumps({"datasets": ["pairs"]}))
    assert scores(folder, "folder").numbers == {}
