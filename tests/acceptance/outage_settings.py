"""The demo project's settings for tests of outages, with options of the bridge as JSON."""

import json
import os

from project.settings import *  # noqa: F403 - as settings that build on others do
from project.settings import STREAMBRIDGE

STREAMBRIDGE = {**STREAMBRIDGE, **json.loads(os.environ.get("BRIDGE_OPTIONS", "{}"))}
