"""The path converter of run ids: any character, so that a bad id gets an answer that says so."""

from django.urls import register_converter
from django.urls.converters import StringConverter


class RunIdConverter(StringConverter):
    """Like ``path``, with line feeds, which a percent-encoded address may hold."""

    regex = r"[\s\S]+"


register_converter(RunIdConverter, "run_id")
