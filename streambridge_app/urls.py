from django.urls import path

from .serve import views

app_name = "streambridge"

# A run id may hold any character, slashes too: the longer routes come first. Those with a slash at
# the end have no names, so that reverse() makes addresses without.
urlpatterns = [
    path("runs/<run_id:run_id>/stream", views.stream, name="stream"),
    path("runs/<run_id:run_id>/stream/", views.stream),
    path("runs/<run_id:run_id>/cancel", views.cancel, name="cancel"),
    path("runs/<run_id:run_id>/cancel/", views.cancel),
    path("runs/<run_id:run_id>/", views.detail),
    path("runs/<run_id:run_id>", views.detail, name="run"),
]
