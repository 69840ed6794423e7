"""Settings of the test run.

Each worker of pytest-xdist has a database file and servers of its own. Child processes that use
these settings meet those of the worker that started them.
"""

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.ports import HOST, free_port


def _shared(name: str, choose: Callable[[], str | int]) -> str:
    name += os.environ.get("PYTEST_XDIST_WORKER", "")
    if name not in os.environ:
        os.environ[name] = str(choose())
    return os.environ[name]


# Only a name: the test run makes the directory, and type checker and commands leave none behind.
_RUN = _shared("STREAMBRIDGE_TEST_RUN", lambda: secrets.token_hex(8))
TEST_DIRECTORY = Path(tempfile.gettempdir(), f"streambridge-tests-{_RUN}")
REDIS_PORT = int(_shared("STREAMBRIDGE_TEST_REDIS_PORT", free_port))
POSTGRES_PORT = int(_shared("STREAMBRIDGE_TEST_POSTGRES_PORT", free_port))

# A file, not memory: the threads and child processes of a test must see one database. Child
# processes look under NAME, so it is the test database itself.
SQLITE_FILE = TEST_DIRECTORY / "test.sqlite3"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": SQLITE_FILE,
        "TEST": {"NAME": SQLITE_FILE},
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    },
    "postgres": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "streambridge",
        "TEST": {"NAME": "streambridge", "DEPENDENCIES": []},
        "HOST": HOST,
        "PORT": POSTGRES_PORT,
        "USER": "postgres",
    },
}

CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "pubsub": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [(HOST, REDIS_PORT)]},
    },
    "core": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [(HOST, REDIS_PORT)]},
    },
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "streambridge_app",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

SECRET_KEY = "only for tests"
CELERY_BROKER_URL = f"redis://{HOST}:{REDIS_PORT}/0"
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
