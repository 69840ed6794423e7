from django.contrib import admin
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.demo, name="demo"),
    path("demo/start", views.start, name="demo-start"),
    path("admin/", admin.site.urls),
    path("", include("streambridge_app.urls")),
]
