"""The demo project's settings for workers that are killed: their leases can be short."""

import os

from project.settings import *  # noqa: F403 - as settings that build on others do
from project.settings import CHANNEL_LAYERS, STREAMBRIDGE

STREAMBRIDGE = {**STREAMBRIDGE, "LEASE_SECONDS": float(os.environ["LEASE_SECONDS"])}
ROOT_URLCONF = os.environ.get("URLS", "project.urls")
if os.environ.get("LAYER") == "memory":  # with Redis as the broker all the same
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
