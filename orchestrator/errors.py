"""Every error this package raises, as one tree.

    OrchestratorError
    ├── RunNotFoundError           404 run_not_found
    ├── ThreadNotFoundError        404 thread_not_found
    ├── UnknownWorkflowError       404 unknown_workflow
    ├── InvalidPayloadError        422 invalid_payload       the input is no JSON that can be stored
    ├── InvalidRequestError        422 invalid_request       an argument is out of its range
    │   └── MalformedBodyError     400 malformed_body        the body is not JSON
    ├── BodyTooLargeError          413 body_too_large
    ├── UnauthorizedError          401 unauthorized
    ├── IdempotencyConflictError   409 idempotency_conflict  the key belongs to another payload
    ├── IllegalTransitionError     409 illegal_transition    the run's state does not allow it
    ├── EntityNotFoundError        404 entity_not_found      in batches/knowledge.py, and
    ├── MergeNotFoundError         404 merge_not_found
    ├── StepNotFoundError          404 step_not_found
    ├── HookNotFoundError          404 hook_not_found        the address is unknown, used up or expired
    ├── CheckpointNotFoundError    404 checkpoint_not_found  the run has no checkpoint of this id
    ├── ThreadMovedOnError         409 thread_moved_on       a failed run's thread has gone on without it
    ├── RunLeftError               409 run_left              the run has left PostgreSQL for a server's memory
    ├── ThreadBusyError            409 thread_busy           `if_busy="reject"`, and a run is under way
    ├── DatabaseUnavailableError   503 database_unavailable  no answer from PostgreSQL in time
    ├── ClosingError               503 closing               the orchestrator is being stopped
    ├── GraphError                 a graph could not be loaded or compiled
    │   └── GraphFileError         langgraph.json is wrong; names the file and the key
    ├── ThreadLostError            a thread's checkpoints were in the memory of a process that is gone
    ├── RivalError                 another process is alive, and one of the two keeps threads in memory
    ├── ExitError                  a node asked the process to end
    ├── MoveError                  runs can't be exported or imported
    ├── ServeError                 the address can't be served
    ├── RemoteError                a server that was asked gave no usable answer
    ├── MissingNodeError           a run is to go on at a node that its graph no longer has
    ├── StepFailedError            a step that was dispatched has failed for good
    ├── QueueError                 a queue driver can't be used
    └── NoAttemptError             what is for a node's code was called outside of one

`status` and `code` are what the HTTP API answers. Messages say what was wrong, with which value (never a secret),
and what to do next. A setting that does not parse raises `checkpointer.SettingsError`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BodyTooLargeError",
    "CheckpointNotFoundError",
    "ClosingError",
    "DatabaseUnavailableError",
    "ExitError",
    "GraphError",
    "GraphFileError",
    "HookNotFoundError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InvalidPayloadError",
    "InvalidRequestError",
    "MalformedBodyError",
    "MissingNodeError",
    "MoveError",
    "NoAttemptError",
    "OrchestratorError",
    "QueueError",
    "RemoteError",
    "RivalError",
    "RunLeftError",
    "RunNotFoundError",
    "ServeError",
    "StepFailedError",
    "StepNotFoundError",
    "ThreadBusyError",
    "ThreadLostError",
    "ThreadMovedOnError",
    "ThreadNotFoundError",
    "UnauthorizedError",
    "UnknownWorkflowError",
]


class OrchestratorError(Exception):
    """Base of all errors of this package."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class RunNotFoundError(OrchestratorError):
    """No run has this id."""

    status = 404
    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}")


class ThreadNotFoundError(OrchestratorError):
    """No run was ever started on this thread."""

    status = 404
    code = "thread_not_found"

    def __init__(self, thread_id: str) -> None:
        super().__init__(f"no run was started on thread {thread_id!r}")


class UnknownWorkflowError(OrchestratorError):
    """No graph is registered under this name."""

    status = 404
    code = "unknown_workflow"

    def __init__(self, workflow: str, known: list[str]) -> None:
        super().__init__(f"there is no workflow {workflow!r}; known: {', '.join(known) or 'none'}")


class InvalidPayloadError(OrchestratorError):
    """A run's input is not JSON, or holds what can't be stored."""

    status = 422
    code = "invalid_payload"


class InvalidRequestError(OrchestratorError):
    """An argument is out of its range or of the wrong shape."""

    status = 422
    code = "invalid_request"


class MalformedBodyError(InvalidRequestError):
    """The body of a request is not JSON."""

    status = 400
    code = "malformed_body"


class BodyTooLargeError(OrchestratorError):
    """The body of a request is over the limit."""

    status = 413
    code = "body_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is over the limit of {max_bytes} bytes")


class UnauthorizedError(OrchestratorError):
    """The request shows no token, or one that is not in the setting that is asked for."""

    status = 401
    code = "unauthorized"

    def __init__(self, setting: str = "API_TOKENS") -> None:
        super().__init__(f"send `Authorization: Bearer <token>` with a token from {setting}")


class IdempotencyConflictError(OrchestratorError):
    """The idempotency key was used before, for something else."""

    status = 409
    code = "idempotency_conflict"

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(
            f"idempotency key {key!r} belongs to run {run_id}, which was started with another payload or thread; "
            "use a new key for a new request"
        )


class IllegalTransitionError(OrchestratorError):
    """The run's state does not allow what was asked."""

    status = 409
    code = "illegal_transition"

    def __init__(self, current: str, target: str) -> None:
        super().__init__(f"a run that is {current} can't become {target}")
        self.current = current


class StepNotFoundError(OrchestratorError):
    """No step has this id."""

    status = 404
    code = "step_not_found"

    def __init__(self, step_id: str) -> None:
        super().__init__(f"there is no step {step_id!r}")


class HookNotFoundError(OrchestratorError):
    """No hook has this token, or it was used up or has expired. The token is not shown: it is a secret."""

    status = 404
    code = "hook_not_found"

    def __init__(self) -> None:
        super().__init__("this address is not known, or was used already, or has expired; ask for a new one")


class CheckpointNotFoundError(OrchestratorError):
    """The run has no checkpoint of this id."""

    status = 404
    code = "checkpoint_not_found"

    def __init__(self, run_id: str, checkpoint_id: str) -> None:
        super().__init__(f"run {run_id} has no checkpoint {checkpoint_id!r}; its history lists those it has")


class RunLeftError(OrchestratorError):
    """The run was exported to a server that keeps its runs in memory, and is not back yet."""

    status = 409
    code = "run_left"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id} has left PostgreSQL for the memory of a server: ask that server, or bring the run back with "
            "`holdfast runs import FILE`"
        )


class MoveError(OrchestratorError):
    """Runs can't be exported or imported; the message says why and what to do."""


class ThreadBusyError(OrchestratorError):
    """A run of the thread is not finished, and the caller asked not to queue behind it."""

    status = 409
    code = "thread_busy"

    def __init__(self, thread_id: str, run_id: str, current: str) -> None:
        super().__init__(
            f"thread {thread_id!r} is busy with run {run_id} ({current}); wait for it, or start with enqueue"
        )


class ThreadMovedOnError(OrchestratorError):
    """A failed run can't be resumed: another run has begun on its thread since."""

    status = 409
    code = "thread_moved_on"

    def __init__(self, run_id: str, other: str) -> None:
        super().__init__(
            f"run {run_id} can't be resumed: run {other} has begun on its thread since; fork it from its last "
            "checkpoint instead"
        )


class DatabaseUnavailableError(OrchestratorError):
    """PostgreSQL did not answer in time; nothing was acknowledged."""

    status = 503
    code = "database_unavailable"


class ClosingError(OrchestratorError):
    """The orchestrator is being stopped and takes no new runs."""

    status = 503
    code = "closing"

    def __init__(self) -> None:
        super().__init__("the orchestrator is being stopped and takes no new runs; try again shortly")


class GraphError(OrchestratorError):
    """A graph could not be loaded or compiled."""

    code = "graph_error"


class GraphFileError(GraphError):
    """A `langgraph.json` can't be used; the message names the file and the key."""

    def __init__(self, file: object, key: str, problem: str) -> None:
        super().__init__(f"{file}, {key}: {problem}")


class ThreadLostError(OrchestratorError):
    """A thread's checkpoints, or the last of them, were in the memory of another process."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(
            f"the checkpoints of thread {thread_id!r} were in the memory of a server that is gone, and were not begun "
            "anew: start that server with the MEMORY_SNAPSHOT that it wrote and resume the run, or use another thread"
        )


class RivalError(OrchestratorError):
    """Threads in memory belong to one process, and two are alive."""

    def __init__(self, kind: str, hostname: str, pid: int, *, keeps_memory: bool) -> None:
        whose = "this process would keep" if keeps_memory else "it keeps"
        super().__init__(
            f"another process works on the same runs ({kind}, {hostname} pid {pid}), and {whose} threads in memory "
            "(POSTGRES_SAVER_ROLLOUT_PERCENT below 100, or threads in MEMORY_SNAPSHOT): stop the other one first"
        )


class ExitError(OrchestratorError):
    """Code of a run asked the process to end, by `sys.exit()` or by raising KeyboardInterrupt; only the run ended."""

    def __init__(self, asked: BaseException) -> None:
        super().__init__(
            f"{type(asked).__name__}({asked}) would have ended the server; raise an ordinary error in a node instead"
        )


class ServeError(OrchestratorError):
    """HOST and PORT can't be served."""


class RemoteError(OrchestratorError):
    """A server that was asked over HTTP gave no answer, or an error."""


class MissingNodeError(OrchestratorError):
    """A run is to go on at nodes that its graph here does not have."""

    def __init__(self, workflow: str, nodes: list[str]) -> None:
        super().__init__(
            f"the run is to go on at {', '.join(map(repr, nodes))}, which the graph {workflow!r} here does not have; "
            "start a worker whose version of the graph has it, or cancel the run"
        )


class StepFailedError(OrchestratorError):
    """A step that another worker ran has failed for good; `error` is `{"type", "message", "traceback"}`."""

    def __init__(self, name: str, error: dict[str, object]) -> None:
        super().__init__(f"step {name} failed: {error.get('type')}: {error.get('message')}")
        self.error = error


class QueueError(OrchestratorError):
    """A queue driver can't be used: it is not installed, not known, or lacks what it needs."""


class NoAttemptError(OrchestratorError):
    """Something that belongs into a node was called where no run is under way."""

    def __init__(self, function: str) -> None:
        super().__init__(f"{function}() was called outside of a run; call it in a node of a graph that Holdfast runs")
