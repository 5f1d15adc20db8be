"""Every argument of a verb changes what the verb does, or is refused."""

import io
import json
import tarfile
from functools import cache

import numpy as np
import pytest

from gapless.cli.verbs import parser_of
from tests.data.pictures import picture, write_coco
from tests.faults.crash import contents
from tests.runs import outcome

SOURCES = {
    "source": ["other.npz"],
    "images": ["--images=z.npy", "--texts=y.npy"],
    "texts": ["--images=x.npy", "--texts=z.npy"],
    "rows": ["--rows=9"],
    "seed": ["--seed=5"],
}
PAIR = ["--images=x.npy", "--texts=y.npy"]
GAP = {
    "gamma": ["--gamma=0.5"],
    "definition": ["--definition=code"],
    "bootstrap": ["--bootstrap=9"],
    "before": ["--before=other.npz"],
    "json": ["--json"],
    "output": ["--output=out.json"],
    "report": ["--report=figures"],
}
CLOSE = {
    **SOURCES,
    "method": ["--method=standardise"],
    "alpha": ["--alpha=0.3"],
    "epsilon": ["--epsilon=0.4"],
    "reading": ["--reading=relative"],
    "moved": ["--moved=image"],
    "apply": ["--apply=other.npz"],
    "renormalise": ["--renormalise"],
    "output": ["--output=out/other.safetensors"],
    "moved_output": ["--moved_output=out/moved.safetensors"],
}
ROBUSTNESS = {
    "rows": ["--rows=9"],
    "seed": ["--seed=5"],
    "labels": ["--labels=labels.npy"],
    "retrieved": ["--retrieved=image"],
    "method": ["--method=orthogonal"],
    "epsilon": ["--epsilon=0.4"],
    "alphas": ["--alphas=[0, 1]"],
    "sigmas": ["--sigmas=[0.3]"],
    "noise": ["--noise=[uniform]"],
    "levels": ["--levels=[5]"],
    "codes": ["--codes=[binary]"],
    "draws": ["--draws=9"],
    "mode": ["--mode=cosine"],
    "output": ["--output=out.json"],
}
PREPARE = {
    "source": [],  # every source is a mode
    "output": ["--output=other"],
    "path": ["--path=other"],
    "split": ["--split=val"],
    "karpathy": ["--karpathy=coco/dataset_coco.json"],
    "csv_image": ["--csv_image=other"],
    "csv_caption": ["--csv_caption=other"],
    "csv_separator": ["--csv_separator=;"],
    "json_caption": ["--json_caption=other"],
    "all": ["--all"],
    "resize": ["--resize=8"],
    "samples_per_shard": ["--samples_per_shard=2"],
    "workers": [],  # how many processes decode changes nothing but the time
    "max_bad_fraction": ["--max_bad_fraction=0.0001"],
}
ARGUMENTS = {"gap": GAP, "close": CLOSE, "robustness": ROBUSTNESS, "prepare": PREPARE}
NOISE = [*PAIR, "--draws=4", "--sigmas=[0.5]", "--alphas=[0, 0.5, 1]", "--method=translate"]
SMALL = ["--output=out", "--workers=0", "--max_bad_fraction=0.9"]
FIT = [*PAIR, "--output=out/t.safetensors"]
OF_METHODS = ("alpha", "epsilon", "reading", "moved")
OF_SOURCES = ("path", "karpathy", "csv_image", "csv_caption", "csv_separator", "json_caption", "all")
ALL = ("max_bad_fraction", "output", "resize", "samples_per_shard", "split")
MODES = {
    ("gap", "pairs"): ([*PAIR, "--rows=30"], {*GAP} - {"definition"}, set()),
    ("gap", "three groups"): (["many.npz"], ("definition",), set()),
    ("close", "mean"): (FIT, CLOSE, {"source", "seed", *OF_METHODS}),
    ("close", "standardise"): ([*FIT, "--method=standardise"], OF_METHODS, {*OF_METHODS}),
    ("close", "procrustes"): ([*FIT, "--method=procrustes"], OF_METHODS, {"alpha", "epsilon", "reading"}),
    ("close", "translate"): ([*FIT, "--method=translate"], OF_METHODS, {"epsilon", "reading"}),
    ("close", "orthogonal"): ([*FIT, "--method=orthogonal"], OF_METHODS, {"epsilon", "reading"}),
    ("close", "approximate"): ([*FIT, "--method=approximate", "--epsilon=0.2"], OF_METHODS, set()),
    ("close", "rows"): ([*FIT, "--rows=20"], ("rows", "seed"), set()),
    ("robustness", "noise"): (NOISE, ROBUSTNESS, {"epsilon"}),
    ("robustness", "approximate"): ([*NOISE, "--method=approximate"], ("epsilon",), set()),
    ("robustness", "codes"): (
        [*PAIR, "--noise=[]", "--codes=[int8]"],
        ("seed", "sigmas", "draws", "mode", "alphas", "levels"),
        {"seed", "sigmas", "draws", "mode"},
    ),
    ("robustness", "rows"): (
        [*PAIR, "--method=translate", "--sigmas=[]", "--levels=[9]", "--rows=20"],
        ("seed", "noise", "labels"),
        {"noise", "labels"},
    ),
    ("prepare", "emoji"): (["emoji", *SMALL], OF_SOURCES, {*OF_SOURCES}),
    ("prepare", "coco"): (["coco", "--path=coco", *SMALL], (*ALL, *OF_SOURCES), {*OF_SOURCES[2:]}),
    ("prepare", "folder"): (["folder", "--path=folder", *SMALL], (*ALL, *OF_SOURCES), {*OF_SOURCES[1:-1]}),
    ("prepare", "csv"): (["csv", "--path=table.csv", *SMALL], (*ALL, *OF_SOURCES), {"karpathy", "json_caption"}),
    ("prepare", "shards"): (["shards", "--path=shards.tar", *SMALL], (*ALL, *OF_SOURCES), {*OF_SOURCES[1:5]}),
}
"""By verb and mode: the usual arguments, the names of others that are tried, and of those that are refused."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    x, y, z = (generator.normal(size=(40, 6)).astype(np.float32) + k for k in range(3))
    for name, array in {"x": x, "y": y, "z": z, "labels": (np.arange(40) * 7) % 40}.items():
        np.save(place / f"{name}.npy", array)
    np.savez(place / "other.npz", image=y, text=z)
    np.savez(place / "many.npz", image=generator.normal(size=(310, 6)), text=generator.normal(size=(310, 6)))
    for name, count in (("folder", 30), ("other", 5)):
        (place / name).mkdir()
        for k in range(count):
            (place / name / f"{k}.png").write_bytes(picture(seed=k) if k else b"no picture")
            (place / name / f"{k}.txt").write_text(f"number {k}")
    rows = [f"folder/{k}.png,a;{k},folder/{29 - k}.png,b {k}" for k in range(30)]
    (place / "table.csv").write_text("\n".join(["filepath,title,other,words", *rows]))
    _write_shards(place / "shards.tar")
    write_coco(place / "coco")
    (place / "coco" / "train2017" / f"{1:012d}.jpg").write_bytes(b"")
    return place


def _write_shards(path):
    with tarfile.open(path, "w") as file:
        for k in range(12):
            captions = {"caption": f"number {k}", "other": f"the number {k}"}
            for suffix, content in (("png", picture(seed=k) if k else b""), ("json", json.dumps(captions).encode())):
                member = tarfile.TarInfo(f"{k:02d}.{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def carried_out(verb, arguments, folder, monkeypatch):
    """What a command came to: its exit code, its words, and what it wrote."""
    monkeypatch.chdir(folder)
    before = contents(folder)
    code, out, err = outcome(*verb.split(), *arguments)
    written = {name: digest for name, digest in contents(folder).items() if before.get(name) != digest}
    for name in written:
        (folder / name).unlink()
    return code, out, err, written


def test_every_argument_of_these_verbs_is_tried():
    for verb, changes in ARGUMENTS.items():
        known = {action.dest for action in parser_of(verb)._actions} - {"help", "config", "print_config", "print_shtab"}
        assert set(changes) | set(SOURCES) == known | set(SOURCES), verb  # the sources are those of close
        tried = {name for mode, (_, names, _) in MODES.items() if mode[0] == verb for name in names}
        assert tried == {name for name in changes if changes[name]}, verb


@pytest.fixture(scope="module")
def usual(inputs):
    """What a mode comes to with its usual arguments: the same each time."""

    @cache
    def outcome_of(verb, mode):
        with pytest.MonkeyPatch.context() as patch:
            first, second = (carried_out(verb, MODES[verb, mode][0], inputs, patch) for _ in range(2))
        assert first == second
        assert first[0] == 0
        return first

    return outcome_of


CASES = [(*mode, name) for mode, (_, names, _) in MODES.items() for name in sorted(names)]


@pytest.mark.parametrize(("verb", "mode", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_an_argument_changes_the_outcome_or_is_refused(verb, mode, name, usual, inputs, monkeypatch):
    arguments, _, refused = MODES[verb, mode]
    with_it = carried_out(verb, [*arguments, *ARGUMENTS[verb][name]], inputs, monkeypatch)
    if name in refused:
        assert (with_it[0], with_it[3]) == (2, {})
        assert with_it[2].startswith("gapless: error: ")
        assert "unknown key" not in with_it[2]
    else:
        assert with_it[0] != 2, with_it
        assert with_it != usual(verb, mode)
