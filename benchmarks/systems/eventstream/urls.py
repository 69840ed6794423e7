"""One stream per run: its channel has the run's id."""

import django_eventstream.urls
from django.urls import include, path

urlpatterns = [path("events/<channel>/", include(django_eventstream.urls))]
