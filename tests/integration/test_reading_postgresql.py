"""How PostgreSQL is asked for pages of the log."""

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streambridge_app import log
from streambridge_app.log.read import read_after
from streambridge_app.log.writes import Write

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])


def test_each_connection_makes_room_for_pages_once():
    (written,) = log.append([Write("a", ["n"], ["1"])], "postgres", timezone.now(), {})
    connection = connections["postgres"]
    for _ in range(2):  # the second is one that was lost and made anew
        connection.close()
        with CaptureQueriesContext(connection) as queries:
            pages = [read_after(written.key, written.epoch, 0, 10, "postgres") for _ in range(2)]
        assert [page.data for page in pages] == [["1"], ["1"]]
        assert ["repeat" in query["sql"] for query in queries] == [True, False, False]
