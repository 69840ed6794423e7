"""
What a server of streams lacks: backpressure, a count of them, and an end that tells clients.

It imports nothing that needs Django's apps: a project's ``asgi.py`` may import it before they are
ready.
"""

from .open_streams import OpenConnection, OpenStream, is_draining
from .wrapper import flow_control, is_controlled

__all__ = ["OpenConnection", "OpenStream", "flow_control", "is_controlled", "is_draining"]
