"""Two clocks, compared by numbers."""

import pytest

from streambridge_app.doctor.clock import Sample, judge


@pytest.mark.parametrize(
    ("ahead", "statuses"),
    [(0.0, []), (0.9, []), (-0.9, []), (1.2, ["warning"]), (-3.0, ["warning"]), (5.2, ["fail"])],
)
def test_skew_is_judged_by_its_size(ahead: float, statuses: list[str]) -> None:
    found = judge([Sample(100.0, 100.01 + ahead, 100.02)])
    assert [problem.status for problem in found.problems] == statuses


def test_the_round_trip_is_no_skew() -> None:
    assert judge([Sample(100.0, 103.0, 103.0)]).problems == ()
    assert judge([Sample(100.0, 100.0, 103.0)]).problems == ()


def test_the_shortest_round_trip_counts() -> None:
    found = judge([Sample(100.0, 103.0, 103.0), Sample(103.0, 106.0, 103.0)])
    assert [problem.status for problem in found.problems] == ["warning"]
    assert found.text == "the database is 3.00 s ahead, give or take 0 ms"


def test_which_clock_is_behind() -> None:
    found = judge([Sample(100.0, 90.0, 100.0)])
    assert found.text.startswith("the database is 10.00 s behind")
    assert "10.00 s apart" in found.problems[0].text
    assert "chrony" in found.problems[0].hint
