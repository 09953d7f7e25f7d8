"""Agreement with the published implementations, on the reduced copy of their numbers (see
tests/reference/README.md)."""

from pathlib import Path

import pytest

from yolact.testing.reference_cases import all_cases

ROOT = Path(__file__).parent / "reference" / "yolact"


@pytest.mark.parametrize("case", all_cases(ROOT), ids=lambda case: case.name)
def test_agrees_with_reference(case):
    error = case.run()
    assert error <= case.tolerance, f"{case.name}: error {error:.3g} above {case.tolerance:.3g}"
