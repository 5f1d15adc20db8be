import pytest

from gapless.config import DataConfig
from gapless.data import Place, build_eval_data, build_train_data
from gapless.data.addresses import expand_shards, is_streamed
from gapless.data.sources import build_source
from gapless.errors import DataError
from tests.data.test_loader import PREPROCESS, tokenize

HIDDEN = [
    "pipe:{};",
    "PIPE:{}",
    " pipe:{}",
    "a.tar::pipe:{}",
    "http://127.0.0.1:1/{{0..2}}.tar::{{pipe:{};,http://127.0.0.1:1/3.tar}}",
    "{{http://127.0.0.1:1/0.tar,pipe:{}}}",
    "p{{ipe:{},ipe:true}}",
]


@pytest.mark.parametrize("address", HIDDEN)
@pytest.mark.parametrize("key", ["path", "val_path"])
def test_no_command_runs_that_was_not_allowed(tmp_path, address, key):
    other = {"path": "http://127.0.0.1:1/{0..2}.tar", "val_path": "http://127.0.0.1:1/{0..2}.tar"}
    paths = other | {key: address.format(f"touch {tmp_path}/PWNED")}
    config = DataConfig(source="shards", **paths, workers=0, epoch_size=100, batch_size=2, timeout=1)
    makers = {
        "path": [lambda: build_train_data(config, 0, PREPROCESS, tokenize, Place()).batches(0, 1)],
        "val_path": [lambda: build_eval_data(config, 2, PREPROCESS, tokenize, Place()).batches()],
    }
    for make in [*makers[key], lambda: build_source(config, "train" if key == "path" else "val")]:
        with pytest.raises(DataError, match=f"data.{key}: .* set data.allow_pipe=true"):
            list(make())
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs", "ais", "htgs", "hf", "scp", "sftp", "ftps", "ftp", "GS", "xyz"])
def test_other_schemes_are_refused_by_name(scheme):
    for address in (f"{scheme}://bucket/0.tar", f"a.tar::{{b.tar,{scheme}:x}}"):
        with pytest.raises(DataError, match=f"data.val_path: .*{scheme.lower()}: is none of http:, https:"):
            expand_shards(address, allow_pipe=True, key="data.val_path")


def test_lists_ranges_folders_and_files(tmp_path, monkeypatch):
    for name in ("b.tar", "a.tar", ".tmp_c.tar", "._a.tar", "shards.json", "a.tar.index.json", "c.tar.gz"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tar").mkdir()
    assert expand_shards(str(tmp_path)) == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert expand_shards(f"file://{tmp_path}/a%20b.tar:: {tmp_path}/{{x,y}}.tar ") == [
        f"{tmp_path}/a b.tar",
        f"{tmp_path}/x.tar",
        f"{tmp_path}/y.tar",
    ]
    assert expand_shards("http://h/{08..10}.tar") == [f"http://h/{k}.tar" for k in ("08", "09", "10")]
    assert expand_shards("pipe:cat {0..1}.tar", allow_pipe=True) == ["pipe:cat 0.tar", "pipe:cat 1.tar"]
    monkeypatch.chdir(tmp_path)
    for name in ("odd{1,2.tar", "set:1.tar"):  # names of files that are there, whatever they look like
        (tmp_path / name).touch()
        assert expand_shards(name) == [name]


def test_what_is_streamed():
    assert not is_streamed("/data/{0..3}.tar")
    assert all(map(is_streamed, ("http://h/0.tar", "a.tar::HTTPS://h/0.tar", "a.tar.gz", "{a.tar,pipe:x}", "a.TGZ")))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{0..999999999}.tar", r"stands for 1,000,000,000 shards, at most 1,000,000"),
        ("http://h/{0..99}{0..99}{0..99}{0..99}.tar", "stands for 100,000,000 shards"),
        ("{a,b}" * 30, "stands for 1,073,741,824 shards"),
        ("{0.." + "9" * 5000 + "}.tar", "at most 1,000,000"),
        ("{1..3.tar", "braces that do not match"),
        ("{a,b}}.tar", "braces that do not match"),
        ("a\0b.tar", "NUL"),
        ("::", "no .tar files in"),
    ],
)
def test_one_line_before_expanding(path, said):
    with pytest.raises(DataError, match=said) as caught:
        expand_shards(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["{a,b}{0..2}", "{x{0..3},y{0..1},z}", "{a}{1}", r"\{a,b\}", "{0..9..3}", "{c..a}"])
def test_names_are_counted_as_they_are_made(pattern):
    from gapless.data.addresses import _count_names, _expanded

    assert _count_names(pattern) == len(_expanded(pattern))
