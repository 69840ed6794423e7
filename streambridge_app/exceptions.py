"""
Every error that StreamBridge raises by itself.

::

    StreamBridgeError
     ├── InvalidEvent (ValueError)       an event that can't be published as it is
     ├── InvalidRunId (ValueError)       a run id that can't name a run
     ├── InvalidCursor (ValueError)      a last_event_id that is none of the cursor forms
     ├── RunExists (ValueError)          create_run() with an id that is taken
     ├── RunNotFound (LookupError)       an operation that needs a run that isn't there
     ├── RunEnded (RuntimeError)         publishing to a run after its end
     ├── ProducerFenced (RuntimeError)   a handle whose run another has taken over
     ├── CancelRequested (RuntimeError)  a handle made to raise when its run is to stop
     ├── InsideTransaction (RuntimeError)  a self-committing call inside atomic()
     ├── InsideEventLoop (RuntimeError)  a call that blocks, in a thread that runs an event loop
     ├── BridgeClosed (RuntimeError)     publishing through a bridge after close()
     ├── GreenThreadsUnsupported (RuntimeError)  patched threads that the bridge can't work with
     ├── LogOutdated (RuntimeError)      the log's tables are missing, or of another version
     └── LogUnavailable (ConnectionError)  the database can't be reached; try again

Each message says what was wrong, with the value, and what to do about it.
"""


class StreamBridgeError(Exception):
    """The root: catch it to catch everything that StreamBridge raises by itself."""


class InvalidEvent(StreamBridgeError, ValueError):
    """The event's name, data or size can't be published. Nothing was written."""


class InvalidRunId(StreamBridgeError, ValueError):
    """The text can't be a run id: it is empty, too long, or no address of a run could hold it."""


class InvalidCursor(StreamBridgeError, ValueError):
    """The text is none of the cursor forms that ``subscribe`` takes."""


class RunExists(StreamBridgeError, ValueError):
    """A run with this id exists already."""


class RunNotFound(StreamBridgeError, LookupError):
    """No run has this id."""


class RunEnded(StreamBridgeError, RuntimeError):
    """The run has ended; its log takes no further event."""


class ProducerFenced(StreamBridgeError, RuntimeError):
    """Another producer has taken the run over; this one may write no more."""


class CancelRequested(StreamBridgeError, RuntimeError):
    """The run was asked to stop. Leaving a producer's block by it ends the run ``cancelled``."""


class InsideTransaction(StreamBridgeError, RuntimeError):
    """A call that commits by itself was made inside ``transaction.atomic()``."""


class InsideEventLoop(StreamBridgeError, RuntimeError):
    """A call of the sync API was made in a thread that runs an event loop."""


class BridgeClosed(StreamBridgeError, RuntimeError):
    """The bridge was closed; get a new one from ``get_bridge()``."""


class GreenThreadsUnsupported(StreamBridgeError, RuntimeError):
    """The threads of this process were patched in a way, or too late, to work with."""


class LogOutdated(StreamBridgeError, RuntimeError):
    """A table or column of the log is not there: it takes ``manage.py migrate``."""


class LogUnavailable(StreamBridgeError, ConnectionError):
    """
    The database that holds the log failed, is locked or can't be reached. Trying again may help.

    The message says which of these it was.
    """

    def __init__(
        self,
        message: str,
        *,
        written: bool | None = False,
        transient: bool = False,
        locked: bool = False,
    ) -> None:
        super().__init__(message)
        self.written = written
        """False: nothing was written for sure. None: that is not known."""
        self.transient = transient
        """Whether the database may be back in a moment; not a lock's timeout or a full disk."""
        self.locked = locked
        """Whether another transaction held a lock for too long."""


# Makers: whoever raises one of these says the same.


def run_exists(run_id: str) -> RunExists:
    """Return the error of an id that is taken."""
    return RunExists(f"A run with the id {run_id!r} exists already.")


def run_not_found(run_id: str) -> RunNotFound:
    """Return the error of an id that names no run."""
    return RunNotFound(f"There is no run with the id {run_id!r}.")


def run_ended(run_id: str, *, or_deleted: bool = False) -> RunEnded:
    """Return the error of a publish to a run that has ended, or perhaps was deleted."""
    fate = "has ended or was deleted" if or_deleted else "has ended"
    return RunEnded(f"The run {run_id!r} {fate}; its log takes no further event.")


def nothing_to_cancel(run_id: str) -> RunEnded:
    """Return the error of a wish to cancel a run that has ended."""
    return RunEnded(f"The run {run_id!r} has ended; there is nothing left to cancel.")


def cancel_requested(run_id: str) -> CancelRequested:
    """Return the error of a handle whose run is asked to stop."""
    return CancelRequested(f"The run {run_id!r} was asked to stop.")


def producer_fenced(run_id: str) -> ProducerFenced:
    """Return the error of a handle whose run another has taken over."""
    return ProducerFenced(f"Another producer has taken the run {run_id!r} over; stop this one.")


def producer_released(run_id: str) -> ProducerFenced:
    """Return the error of a handle that has left its run to the next one."""
    return ProducerFenced(f"This producer has released the run {run_id!r}; open another.")


def producer_left(run_id: str) -> RunEnded:
    """Return the error of a handle whose block has been left."""
    return RunEnded(f"This producer has left the run {run_id!r}, which ends with its block.")


def bridge_closed() -> BridgeClosed:
    """Return the error of a bridge that was closed."""
    return BridgeClosed("This bridge was closed. Get a new one from get_bridge().")


def interpreter_ending() -> BridgeClosed:
    """Return the error of work that comes when the interpreter ends."""
    return BridgeClosed("The interpreter is ending: it takes no new thread.")
