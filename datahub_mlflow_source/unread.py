"""What MLflow could not serve: told in the report, and what hangs on it kept."""

from __future__ import annotations

from datahub_mlflow_source.mapping.urns import Naming, run_urn
from datahub_mlflow_source.records import Unreadable
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport, Tally


class Unread:
    """Of one ingestion.

    Attributes:
        run_ids: runs that could not be read or mapped.
        runs_missing: some could not be read, and nobody knows which.
        logged_models_missing: so of them.
        versions_missing: all behind some place.
    """

    def __init__(self, report: MlflowSourceReport, guard: RemovalGuard, naming: Naming) -> None:
        self.run_ids: set[str] = set()
        self.runs_missing = False
        self.logged_models_missing = self.versions_missing = False
        self._report, self._guard, self._naming = report, guard, naming
        self._nameless_runs = 0  # unreadable ones whose id was not found out

    def run(self, run_id: str) -> None:
        """This one; its datasets stay."""
        self.run_ids.add(run_id)
        self._guard.run_unreadable(run_urn(run_id, self._naming))

    def tell(self, record: Unreadable, tally: Tally) -> None:
        """Once for each."""
        if record.run_id and record.run_id in self.run_ids:
            return  # told when it was listed
        self._keep_what_it_concerns(record)
        if record.not_shown:
            self._report.info(
                title="Not shown to this user",
                message="What was sent of it before stays.",
                context=f"{record.kind}s: {redact(record.what)}: {record.reason}",
                log=False,
            )
            return
        if record.changed_meanwhile:
            self._report.warning(
                title="MLflow changed while it was read",
                message="What may have been passed over stays in DataHub as it was, and is read the next time.",
                context=f"{record.kind}: {redact(record.what)}: {record.reason}",
            )
            return
        self._count(record, tally)
        if record.listing_broke_off:
            self._report.entity_failure(
                title="A listing broke off",
                message="What comes behind it was not read, and stays in DataHub as it was.",
                context=f"{record.kind}s: {redact(record.what)}: {record.reason}",
            )
        else:
            self._report.entity_failure(
                title="MLflow can't serve it",
                message="MLflow holds it, and fails on it, or serves it in a form that is none. It stays in DataHub as "
                "it was.",
                context=f"{record.kind} {redact(record.what)}: {record.reason}",
            )

    def _count(self, record: Unreadable, tally: Tally) -> None:
        """A run that was counted without a name may get one when a version asks for it."""
        if record.kind == "run" and not (record.run_id or record.listing_broke_off):
            self._nameless_runs += 1
        elif record.run_id and self._nameless_runs:
            self._nameless_runs -= 1
            return
        tally.unreadable += 1

    def _keep_what_it_concerns(self, record: Unreadable) -> None:
        if record.run_id:
            self.run(record.run_id)
            return
        self._guard.listing_incomplete(record.kind)
        self.logged_models_missing |= record.kind in ("logged model", "experiment")
        self.versions_missing |= record.kind == "model version" and record.listing_broke_off
        if record.kind == "experiment" or (record.kind == "run" and not record.changed_meanwhile):
            self.runs_missing = True
