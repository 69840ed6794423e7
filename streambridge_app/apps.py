from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from . import checks, ownership
from .runtime import redaction


class StreamBridgeConfig(AppConfig):
    name = "streambridge_app"
    verbose_name = _("StreamBridge")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .log import retention  # models can't be imported before

        checks.install()
        ownership.install()
        retention.install()
        redaction.install()
