import pytest

from gapless.cli.launch import _outcome, launched
from gapless.errors import LostProcessError
from tests.runs import run


def test_what_comes_before_the_verb_is_for_accelerate():
    words = ["--num_processes", "2", "caption", "train", "--name=eval"]
    assert launched(words, ["caption", "eval"]) == ["caption", "train", "--name=eval"]
    assert "launch: [options of accelerate launch] VERB" in run("launch", "--num_processes", "2", code=2)
    assert "usage: gapless launch [options of accelerate launch] VERB" in run("launch", "--help")


@pytest.mark.parametrize(
    ("failures", "text"),
    [
        ([(0, 5, {"message": "the other died"}), (1, -9, "")], r"process 1 of the run was killed \(SIGKILL\)"),
        ([(0, 5, {"message": "it did not answer within the time limit"}), (1, -9, "")], "it did not answer"),
        ([(0, 5, {"message": "NCCL"})], "NCCL"),
        ([(3, -11, "")], r"process 3 of the run was killed \(SIGSEGV\)"),
    ],
)
def test_one_line_tells_of_lost_processes(failures, text):
    with pytest.raises(LostProcessError, match=text):
        _outcome(failures)


def test_what_a_process_found_wrong_counts_more_than_what_became_of_the_others():
    assert _outcome([(0, 5, {"message": "the other died"}), (1, 3, ""), (2, -15, "")]) == 3
