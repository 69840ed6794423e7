"""The migrations make what the models say, from what earlier versions have made as well."""

import copy

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connections, transaction

from streambridge_app.models import Event, Run

TABLE = Run._meta.db_table
ALIASES = [
    pytest.param(alias, marks=pytest.mark.django_db(transaction=True, databases=[alias]))
    for alias in ("default", "postgres")
]


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "streambridge_app", check=True, dry_run=True, verbosity=0)


@pytest.fixture
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def constraints(using: str) -> dict[str, dict[str, object]]:
    with connections[using].cursor() as cursor:
        found: dict[str, dict[str, object]] = connections[using].introspection.get_constraints(
            cursor, TABLE
        )
    return found


def foreign_keys(using: str) -> list[str]:
    return [name for name, one in constraints(using).items() if one["foreign_key"]]


def indexes(using: str) -> set[str]:
    return {name for name, one in constraints(using).items() if one["index"]}


def go_back(using: str) -> None:
    """Make the database one of version 0003, whose runs had a constraint on their owners."""
    call_command("migrate", "streambridge_app", "0003", database=using, verbosity=0)
    owner = Run._meta.get_field("owner")
    constrained = copy.copy(owner)
    constrained.db_constraint = True
    with connections[using].schema_editor() as editor:
        editor.alter_field(Run, owner, constrained)


@pytest.mark.parametrize("using", ALIASES, indirect=True)
def test_a_new_database_has_no_constraint_on_owners(using: str) -> None:
    assert foreign_keys(using) == []


@pytest.mark.parametrize("using", ALIASES, indirect=True)
def test_an_upgrade_drops_the_constraint_and_keeps_all_else(using: str) -> None:
    before = indexes(using)
    go_back(using)
    assert len(foreign_keys(using)) == 1
    owner = User.objects.using(using).create(username="olga")
    now = owner.date_joined
    runs = [
        Run.objects.using(using).create(run_id=name, epoch=number, created_at=now, owner=whose)
        for number, (name, whose) in enumerate((("a", owner), ("b", None), ("c", owner)))
    ]
    event = {"byte_offset": 0, "event": "e", "data": "1", "created_at": now}
    Event.objects.using(using).create(run=runs[0], seq=1, **event)
    Run.objects.using(using).filter(run_id="c")._raw_delete(using)  # its number was the highest

    call_command("migrate", "streambridge_app", database=using, verbosity=0)

    assert foreign_keys(using) == []
    assert indexes(using) == before
    found = Run.objects.using(using).order_by("id").values_list("id", "run_id", "owner_id")
    assert list(found) == [(runs[0].id, "a", owner.id), (runs[1].id, "b", None)]
    assert Event.objects.using(using).filter(run_id=runs[0].id).count() == 1
    fresh = Run.objects.using(using).create(run_id="d", epoch=1, created_at=now, owner_id=4711)
    assert fresh.id > runs[2].id
    with pytest.raises(IntegrityError), transaction.atomic(using=using):
        Run.objects.using(using).create(run_id="d", epoch=1, created_at=now)


@pytest.mark.parametrize("using", ALIASES, indirect=True)
def test_the_way_back_changes_nothing(using: str) -> None:
    call_command("migrate", "streambridge_app", "0003", database=using, verbosity=0)
    assert foreign_keys(using) == []
    call_command("migrate", "streambridge_app", database=using, verbosity=0)
    assert apps.get_model("streambridge_app", "Run").objects.using(using).count() == 0
