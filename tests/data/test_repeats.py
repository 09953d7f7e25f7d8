"""Repeat-factor sampling against the formula of LVIS."""

import json

import numpy as np
import pytest

from data.loader import TrainOrder, train_loader
from data.repeats import repeat_factors, seen_in_round
from data.table import read_table
from tests.data.sets import annotation, image_entry
from yolact.engine.train import train
from yolact.testing import tiny

NAMES = ("often", "some", "rare")


@pytest.fixture
def table(tmp_path):
    """100 images: the first class in all of them but the last, the second in 4, the third in 1."""
    images = [image_entry(i, f"{i}.png") for i in range(100)]
    classes = [(i, 1) for i in range(99)] + [(i, 2) for i in (3, 4, 5, 99)] + [(99, 3)]
    classes += [(3, 2)]  # twice in an image counts once
    rows = [annotation(n, image=i, category=c) for n, (i, c) in enumerate(classes)]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return read_table(file, NAMES)


def test_factors_are_those_of_the_formula(table):
    """sqrt(0.16 / 0.04) = 2 for the second class, sqrt(0.16 / 0.01) = 4 for the third."""
    factors = repeat_factors(table, 0.16)
    expected = np.ones(100)
    expected[[3, 4, 5]], expected[99] = 2, 4
    assert factors == pytest.approx(expected)
    assert repeat_factors(table, 0.01).tolist() == [1] * 100  # no class is rarer
    # LVIS' own threshold: a class in 10 of 100,000 images has sqrt(0.001 / 0.0001)
    assert np.sqrt(0.001 / 1e-4) == pytest.approx(3.1623, abs=1e-4)
    assert repeat_factors(table, 0.1)[99] == pytest.approx(3.1623, abs=1e-4)


def test_a_round_lists_each_image_its_factor_times():
    factors = np.array([1.0, 1.5, 3.25, 1.0, 2.25])
    rng = np.random.default_rng(0)
    epochs = [seen_in_round(factors, rng.random()) for _ in range(4000)]
    assert {len(epoch) for epoch in epochs} == {9}
    counts = np.array([[sum(i == n for i, _ in epoch) for n in range(5)] for epoch in epochs])
    assert (counts >= np.floor(factors)).all() and (counts <= np.ceil(factors)).all()
    assert counts.mean(0) == pytest.approx(factors, abs=0.03)
    for epoch in epochs[:20]:
        assert len(set(epoch)) == 9 and max(time for _, time in epoch) <= 3


def test_a_length_that_is_rounded_down_may_leave_an_image_out():
    """2.4 in 2 places: factors of 1 and 1.4 become 0.83 and 1.17."""
    factors = np.array([1.0, 1.4])
    rounds = [seen_in_round(factors, offset) for offset in np.linspace(0, 1, 600, endpoint=False)]
    counts = np.array([[sum(i == n for i, _ in one) for n in range(2)] for one in rounds])
    assert set(counts[:, 0]) == {0, 1} and set(counts.sum(1)) == {2}
    assert counts.mean(0) == pytest.approx(factors * 2 / 2.4, abs=0.01)


def test_the_order_lists_every_image_and_augments_repetitions_anew():
    factors = np.array([1.0, 3.0, 1.0, 1.0])
    order = TrainOrder(4, seed=0, batch_size=6, factors=factors)
    batches = iter(order)
    first, second = sorted(next(batches)), next(batches)
    assert sorted(index for _, index in first) == [0, 1, 1, 1, 2, 3]
    assert len(set(first)) == 6 and len(set(first) | set(second)) == 12
    assert [key for key in first if key[1] != 1] == [(0, 0), (0, 2), (0, 3)]
    later = TrainOrder(4, seed=0, batch_size=6, factors=factors, start_step=1)
    assert next(iter(later)) == second
    halves = [
        next(iter(TrainOrder(4, seed=0, batch_size=6, factors=factors, rank=r, world_size=2)))
        for r in range(2)
    ]
    assert sorted(halves[0] + halves[1]) == first


def test_without_it_the_order_is_as_it_was():
    plain, ones = (
        TrainOrder(7, seed=3, batch_size=5, factors=factors) for factors in (None, np.ones(7))
    )
    assert [next(iter(plain)) for _ in range(3)] == [next(iter(ones)) for _ in range(3)]


def test_a_set_of_ones_own_is_refused(tmp_path):
    cfg = tiny.config(tiny.write_dataset(tmp_path / "set"), repeat_threshold=0.5)
    with pytest.raises(ValueError, match="repeat_threshold=0.5 needs a COCO-format training set"):
        train_loader(cfg, [1, 2, 3])
    with pytest.raises(ValueError, match="repeat_threshold=0.5 needs a COCO-format training set"):
        train(cfg, train_set=[1, 2, 3], device="cpu", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
