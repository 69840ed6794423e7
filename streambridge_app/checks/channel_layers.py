"""The channel layer, and what is told of it in CHANNEL_LAYERS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channels.layers import InMemoryChannelLayer
from django.conf import settings
from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from ..conf import NAME
from .messages import error_of, listed, value, warning_of


def check_channel_layer_alias(**kwargs: Any) -> list[CheckMessage]:
    """E102."""
    alias, layers = value("CHANNEL_LAYER"), _channel_layers()
    if alias is None or not layers or alias in layers:
        return []
    return [
        error_of(
            "E102",
            f"{NAME}['CHANNEL_LAYER'] is {alias!r}, which is not in CHANNEL_LAYERS.",
            f"Name one of {listed(layers)}.",
        )
    ]


def check_channel_layer_class(**kwargs: Any) -> list[CheckMessage]:
    """E106."""
    path = _layer_path()
    if path is None:
        return []
    try:
        import_string(path)
    except ImportError as error:
        return [
            error_of(
                "E106",
                f"The channel layer {path!r} can't be imported: {error}.",
                "Install its package (for channels_redis: channels-redis) or correct the path.",
            )
        ]
    return []


def check_in_memory_layer(**kwargs: Any) -> list[CheckMessage]:
    """W001."""
    path = _layer_path()
    if settings.DEBUG or path is None:
        return []
    try:
        layer = import_string(path)
    except ImportError:
        return []
    if not (isinstance(layer, type) and issubclass(layer, InMemoryChannelLayer)):
        return []
    return [
        warning_of(
            "W001",
            "The in-memory channel layer reaches its own process only: events from other "
            "processes are found by polling the database, 20 times a second in each server.",
            "Use channels_redis.pubsub.RedisPubSubChannelLayer in production.",
        )
    ]


def check_channel_layer_configured(**kwargs: Any) -> list[CheckMessage]:
    """W006."""
    if _channel_layers():
        return []
    return [
        warning_of(
            "W006",
            "CHANNEL_LAYERS is empty: servers find new events by polling the database only.",
            "Set CHANNEL_LAYERS; in production to channels_redis.pubsub.RedisPubSubChannelLayer.",
        )
    ]


def _channel_layers() -> Mapping[str, Any]:
    return getattr(settings, "CHANNEL_LAYERS", None) or {}


def _layer_path() -> str | None:
    """Return the dotted path of the channel layer, if there is one by that alias."""
    layer = _channel_layers().get(value("CHANNEL_LAYER"))
    return None if layer is None else str(layer.get("BACKEND", ""))
