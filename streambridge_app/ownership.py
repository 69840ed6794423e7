"""
Runs and the users who own them, who may live in another database.

No database knows of the reference then, and Django's cascade would look for runs where the users
are. So it is looked after here: a user is found where users are, and one who is deleted owns no
run any more. An owner who was deleted past Django leaves an id that leads to nobody.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import models, router, transaction
from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor
from django.db.models.signals import post_delete

from .conf import streambridge_settings


class OwnerDescriptor(ForwardManyToOneDescriptor):  # type: ignore[type-arg]  # Django's takes none
    """Finds the owner of a run where the users are, not where the run is; None if there is none."""

    def get_queryset(self, **hints: Any) -> models.QuerySet[Any]:
        users = self.field.remote_field.model
        return users._base_manager.using(router.db_for_read(users))  # type: ignore[no-any-return]

    def get_object(self, instance: models.Model) -> Any:
        try:
            return super().get_object(instance)
        except self.field.remote_field.model.DoesNotExist:
            return None


class OwnerField(models.ForeignKey[Any, Any]):
    """A reference that may lead to another database."""

    forward_related_accessor_class = OwnerDescriptor

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs  # all that a migration needs


def owners_named(name: str) -> list[Any]:
    """Return the primary keys of the users with a name, which they log in by: one, if any."""
    users = get_user_model()
    found = users._default_manager.using(router.db_for_read(users))
    try:
        named = found.filter(**{users.USERNAME_FIELD: name})
    except (ValueError, ValidationError):  # no name at all, where names are numbers
        return []
    return list(named.values_list("pk", flat=True)[:1])


def install() -> None:
    """See to it that whoever deletes a user disowns the user's runs. Once all models are there."""
    wanted = settings.AUTH_USER_MODEL.lower()
    for model in apps.get_models():
        concrete = model._meta.concrete_model
        if concrete is not None and concrete._meta.label_lower == wanted:  # proxies send their own
            post_delete.connect(
                _disown_runs, sender=model, dispatch_uid=f"{__name__}.{model._meta.label}"
            )


def _disown_runs(instance: models.Model, using: str, **kwargs: Any) -> None:
    if using == streambridge_settings.DATABASE:
        disown(instance.pk)
    else:  # a log that fails then is logged by Django: the users' transaction is over
        transaction.on_commit(partial(disown, instance.pk), using=using, robust=True)


def disown(owner_id: Any) -> None:
    """Let the runs of a user be runs without an owner."""
    using = streambridge_settings.DATABASE
    runs = apps.get_model("streambridge_app", "Run")._base_manager.using(using)
    with transaction.atomic(using=using):
        # In the order in which everybody locks runs.
        owned = runs.filter(owner_id=owner_id).select_for_update().order_by("id")
        keys = list(owned.values_list("id", flat=True))
        if keys:
            runs.filter(owner_id=owner_id).update(owner_id=None)
