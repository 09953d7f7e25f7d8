import pickle

import pytest

from layers.problems import Problem, ProblemError, is_line, printable

NAME = "screws v1. final: new"


def test_a_sentence_keeps_its_parts_whatever_they_hold():
    problem = Problem("is empty", NAME, "copy it again")
    assert problem.statement == f"{NAME} is empty"
    assert str(problem) == f"{NAME} is empty: copy it again"
    assert (problem.where, problem.what, problem.fix) == (
        NAME,
        "is empty",
        "copy it again",
    )


def test_what_is_left_out_leaves_no_mark():
    assert str(Problem("it is empty")) == "it is empty"
    assert str(Problem("it is empty", fix="fill it")) == "it is empty: fill it"
    assert str(Problem("is empty").at(NAME)) == f"{NAME} is empty"
    assert str(Problem("is empty", "image 3").at(NAME)) == f"{NAME}: image 3 is empty"


def test_an_error_carries_its_problems_between_processes():
    first, second = Problem("a", "b", "c"), Problem("d")
    error = pickle.loads(pickle.dumps(ProblemError(first, second)))
    assert error.problems == (first, second)
    assert str(error) == "b a: c; d" and isinstance(error, ValueError)


@pytest.mark.parametrize("mark", ["\n", "\x1b[2J", "\x07", "\u2028", "\ud800", "\u202e", "\u2066"])
def test_no_line_holds_what_moves_a_terminal(mark):
    assert not is_line(f"a{mark}b")
    assert printable(f"a{mark}b").isprintable() and printable(f"a{mark}b").isascii()


def test_words_of_every_language_are_lines():
    for text in ("bouée", "浮标", "عوامة", "می\u200cخواهم", "a b"):
        assert is_line(text)
    assert printable("bouée 浮标") == "bouée 浮标"


def test_messages_have_an_end():
    told = printable("\x1b" * 80_000)
    assert len(told) < 10_000 and " ... " in told
