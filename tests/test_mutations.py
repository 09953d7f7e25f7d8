"""The mutations of tests/mutations.yaml still stand for lines of the code; python -m tests.mutate
runs them."""

import pytest

from tests.mutate import ROOT, mutations


@pytest.mark.parametrize("mutation", mutations(), ids=str)
def test_a_mutation_changes_its_file(mutation):
    assert mutation.applied(ROOT) != (ROOT / mutation.file).read_text(encoding="utf-8")
    assert all((ROOT / word).exists() for word in mutation.tests.split() if "/" in word)
