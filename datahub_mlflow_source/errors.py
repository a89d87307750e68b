"""What can go wrong, by what is done about it.

    ConnectorError
    ├── RecipeError      the recipe must change: stops before anything is read
    ├── ServerError      MLflow cannot be read: stops, or loses one listing
    │   └── PageError    the server failed on this page (a 500): the page is taken apart
    ├── ArtifactError    an artifact store can't be read: its models are sent without what their files say
    └── GivenUpError     nobody waits for this shard any more: stops

Messages are for people: what failed, where, and what to check, with recipe keys in backticks
and never a secret. What is left out because of one odd entity is no exception but an
`Unreadable` record (`records.py`).
"""

from __future__ import annotations

GONE = "RESOURCE_DOES_NOT_EXIST"  # MLflow's own code


class ConnectorError(Exception):
    """Root of the errors that this connector raises itself."""


class RecipeError(ConnectorError, ValueError):
    """The recipe asks for something that can't be done. A ValueError, so that pydantic reports it."""


class ServerError(ConnectorError):
    """MLflow can't be reached, refuses us, or answers with something that isn't MLflow."""

    def __init__(self, message: str, *, status: int | None = None, error_code: str | None = None) -> None:
        super().__init__(message)
        self.status = status  # HTTP status; None where no answer came
        self.error_code = error_code  # MLflow's own, for instance RESOURCE_DOES_NOT_EXIST


class PageError(ServerError):
    """MLflow answered 500: one row that it can't convert spoils the whole page."""


class ArtifactError(ConnectorError):
    """An artifact store, or the server in front of it, can't be reached or refuses."""


class GivenUpError(ConnectorError):
    """Whoever started this shard has ended, by Ctrl-C for instance."""
