"""Django settings of the django-eventstream peer; DATABASE_URL and REDIS_URL name its services."""

import os
from urllib.parse import urlsplit

import dj_database_url

SECRET_KEY = "for benchmarks on this machine only"  # noqa: S105 - it protects nothing
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django_eventstream"]
ROOT_URLCONF = "benchmarks.systems.eventstream.urls"
USE_TZ = True

DATABASES = {"default": dj_database_url.config()}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    }

_redis = urlsplit(os.environ["REDIS_URL"])
EVENTSTREAM_REDIS = {"host": _redis.hostname, "port": _redis.port, "db": 0}
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
