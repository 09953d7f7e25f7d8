import pickle

from layers.problems import Problem, ProblemError

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
