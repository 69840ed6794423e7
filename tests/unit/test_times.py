"""Times in words."""

import pytest

from streambridge_app.doctor.times import median_and_worst, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0000071, "0.0071 ms"),
        (0.000311, "0.31 ms"),
        (0.0099, "9.9 ms"),
        (0.0412, "41 ms"),
        (0.94, "940 ms"),
        (1.0, "1.00 s"),
        (12.345, "12.35 s"),
    ],
)
def test_a_time_has_its_unit(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_median_and_worst() -> None:
    assert median_and_worst([0.003, 0.001, 0.020]) == "median 3 ms, worst 20 ms"
