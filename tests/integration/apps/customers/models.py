"""Users by another name."""

from django.contrib.auth.models import User


class Customer(User):
    """A proxy: Django tells of its deletions by this class."""

    class Meta:
        proxy = True
