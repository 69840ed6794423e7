"""The demo page, and its button that starts a worker."""

from http import HTTPStatus

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from streambridge_app import RunState, get_sync_bridge
from streambridge_app.exceptions import InvalidRunId, RunNotFound
from streambridge_app.models import Run

from . import workers
from .access import is_demo
from .jobs import JOBS

PANELS = [("sse", "Server-Sent Events"), ("websocket", "WebSocket")]
RECENT_RUNS = 8
RUNS_LOOKED_AT = 100


@require_safe
def demo(request: HttpRequest) -> HttpResponse:
    run_id = request.GET.get("run", "")
    if not run_id:
        return _page(request)
    run = _find(run_id)
    if run is None:
        return _page(
            request,
            notice="There is no demo run with this id: it may have been deleted.",
            status=HTTPStatus.NOT_FOUND,
        )
    return _page(request, run=run)


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    job_name = request.POST.get("job", "")
    if job_name not in JOBS:
        return _page(request, notice="There is no such job.", status=HTTPStatus.BAD_REQUEST)
    try:
        run_id = workers.start(job_name)
    except workers.TooManyWorkers:
        notice = f"{workers.MAX_WORKERS} jobs are running, which is the most: wait for one to end."
        return _page(request, notice=notice, status=HTTPStatus.TOO_MANY_REQUESTS)
    return redirect(reverse("demo", query={"run": run_id}))


def _find(run_id: str) -> RunState | None:
    try:
        run = get_sync_bridge().get_run(run_id)
    except (InvalidRunId, RunNotFound):
        return None
    return run if is_demo(run) else None


def _page(
    request: HttpRequest, *, run: RunState | None = None, notice: str = "", status: int = 200
) -> HttpResponse:
    newest = Run.objects.exclude(run_id=None).order_by("-created_at")[:RUNS_LOOKED_AT]
    recent = [run for run in newest if is_demo(run)][:RECENT_RUNS]
    context = {
        "jobs": JOBS,
        "run": run,
        "title": _title(run) if run else "",
        "notice": notice,
        "recent": [(_title(run), run) for run in recent],
        "panels": PANELS,
        "event_names": [job.event for job in JOBS.values()],
    }
    return render(request, "project/demo.html", context, status=status)


def _title(run: RunState | Run) -> str:
    job = JOBS.get(run.metadata.get("job", ""))
    return job.title if job else "A run"
