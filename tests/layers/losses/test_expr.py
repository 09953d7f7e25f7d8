import keyword
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layers.losses.expr import (
    Call,
    ExpressionError,
    Term,
    format_terms,
    parse,
    parse_call,
    unordered,
)

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda word: not keyword.iskeyword(word)
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.one_of(FINITE, st.integers(-(10**12), 10**12), st.booleans(), st.none(), WORDS)
CALLS = st.builds(
    Call,
    WORDS,
    st.lists(PLAIN, min_size=1, max_size=3).map(tuple),
    st.dictionaries(WORDS, PLAIN, max_size=2),
)
TERMS = st.builds(
    Term,
    WORDS,
    st.floats(min_value=1e-300, max_value=1e300),
    st.dictionaries(WORDS, st.one_of(PLAIN, CALLS), max_size=3),
)


def test_reads_names_coefficients_parameters_and_schedules():
    bce, mse, boundary = parse(
        "bce + 0.5*mse(region='image') + boundary(weight=ramp(0.01, 1, end=500), constant=False)"
    )
    assert bce == Term("bce")
    assert mse == Term("mse", 0.5, {"region": "image"})
    assert boundary.params == {"weight": Call("ramp", (0.01, 1), {"end": 500}), "constant": False}


def test_one_call_as_assigners_are_written():
    assert parse_call("atss(k=9, iou='gmaiou')") == Call("atss", (), {"k": 9, "iou": "gmaiou"})
    assert parse_call("max_iou") == Call("max_iou")
    with pytest.raises(ExpressionError):
        parse_call("atss + max_iou")


@pytest.mark.parametrize(
    "written, canonical",
    [
        ("1*bce", "bce"),
        ("1.0 * bce + 2.0*mse", "bce + 2*mse"),
        ("0.50*mse( a = 1.0,b='x' )", "0.5*mse(a=1, b='x')"),
        ("bce\n  + mse", "bce + mse"),
        ("1e-1*f(x=-0.5, y=None)", "0.1*f(x=-0.5, y=None)"),
        ("((bce)) + (0.5*mse)", "bce + 0.5*mse"),
    ],
)
def test_canonical_text(written, canonical):
    assert format_terms(parse(written)) == canonical


@given(st.lists(TERMS, min_size=1, max_size=4).map(tuple))
def test_text_and_terms_round_trip(terms):
    text = format_terms(terms)
    assert parse(text) == terms
    assert format_terms(parse(text)) == text


@given(st.lists(TERMS, min_size=1, max_size=4), st.randoms())
def test_order_does_not_matter_for_equality(terms, random):
    shuffled = [
        Term(t.name, t.coefficient, dict(random.sample(list(t.params.items()), len(t.params))))
        for t in terms
    ]
    random.shuffle(shuffled)
    assert unordered(tuple(terms)) == unordered(tuple(shuffled))


def test_different_weights_are_not_equal():
    assert unordered(parse("bce + 2*mse")) != unordered(parse("2*bce + mse"))


@pytest.mark.parametrize(
    "text, position",
    [
        ("-bce", 0),
        ("bce - mse", 6),
        ("bce + -2*mse", 6),
        ("0*bce", 0),
        ("0.0*bce", 0),
        ("nan*bce", 0),
        ("bce + 1e999*mse", 6),
        ("True*bce", 0),
        ("'a'*bce", 0),
        ("bce*2", 4),
        ("2*3*bce", 0),
        ("2*(bce + mse)", 3),
        ("bce/2", 0),
        ("bce + 3", 6),
        ("bce + mse(0.5)", 10),
        ("mse(a=1, a=2)", 9),
        ("mse(**options)", 4),
        ("mse(x=[1])", 6),
        ("mse(x=1j)", 6),
        ("mse(x=a.b)", 6),
        ("mse(x=-'a')", 7),
        ("mse(x=-1e999)", 7),
        ("mse(x=f'{a}')", 6),
        ("mse()()", 0),
        ("a.b(x=1)", 0),
        ("lambda: 1", 0),
        ("bce # the usual", 4),
        ("bce +", 5),
        ("bce + 0.5*", 10),
        ("bce mse", 4),
        ("bce + )", 6),
    ],
)
def test_a_mistake_is_shown_where_it_stands(text, position):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    message, shown, caret = str(caught.value).split("\n")
    assert shown.strip() == text
    assert caret == shown[:4] + " " * position + "^"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "bce +",
        "0.5bce",
        "bce mse",
        "bce, mse",
        "bce; import os",
        "bce = 1",
        "bce\0",
        "(" * 400,
        "+".join(["bce"] * 200) + "+",
        "1" * 6000 + "*bce",
    ],
)
def test_what_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse(text)


def test_a_caret_counts_letters_not_bytes():
    with pytest.raises(ExpressionError) as caught:
        parse("é + -bce")
    assert caught.value.position == 4


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "made"
    for text in (
        f"open({str(target)!r}, 'w')",
        f"mse(x=open({str(target)!r}, 'w'))",
        "mse(x=__import__('os').getcwd())",
    ):
        try:
            parse(text)
        except ExpressionError:
            pass
    assert not target.exists()


def test_needs_no_torch():
    code = "import sys, layers.losses.expr; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
