"""Registered models, their versions and logged models: read before the runs, sent as the runs pass by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from datahub.metadata.urns import ContainerUrn, MlModelUrn

from datahub_mlflow_source.deployments import DeploymentWalk
from datahub_mlflow_source.governance import Governance
from datahub_mlflow_source.logged_models import LoggedModelIndex
from datahub_mlflow_source.mapping.datasets import InputDataset
from datahub_mlflow_source.mapping.features import model_that_predicted
from datahub_mlflow_source.mapping.governance import Subject
from datahub_mlflow_source.mapping.logged_models import map_logged_model
from datahub_mlflow_source.mapping.models import map_model, map_version
from datahub_mlflow_source.mapping.prompts import PromptVersion, is_prompt, linked_prompts, runs_that_used
from datahub_mlflow_source.mapping.rules import Entity, Rules
from datahub_mlflow_source.mapping.subjects import (
    creator_of,
    subject_of_logged_model,
    subject_of_model,
    subject_of_version,
)
from datahub_mlflow_source.mapping.urns import logged_model_urn, model_group_urn, model_version_urn
from datahub_mlflow_source.model_files import (
    ModelFiles,
    WantedFile,
    file_of_logged_model,
    file_of_version,
    version_key,
)
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.records import (
    Experiment,
    LoggedModel,
    ModelVersion,
    RegisteredModel,
    Run,
    Unreadable,
    in_workspace,
)
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.selection import Selection
from datahub_mlflow_source.state.shards import ShardState
from datahub_mlflow_source.unread import Unread
from datahub_mlflow_source.versions import HashSet, VersionIndex

# The datasets that a run read.
InputsOf = Callable[[Run], Sequence[InputDataset]]
_STAGES_IN_USE = ("Staging", "Production")


class RegistryWalk:
    """Of one ingestion, or one shard of it."""

    def __init__(
        self,
        rules: Rules,
        selection: Selection,
        outgoing: Outgoing,
        governance: Governance,
        guard: RemovalGuard,
        report: MlflowSourceReport,
        unread: Unread,
        state: ShardState,
        files: ModelFiles | None,
        inputs_of: InputsOf,
        deployments: DeploymentWalk | None,
        experiment: Callable[[str], Experiment],
    ) -> None:
        self._rules, self._selection, self._outgoing, self._guard = rules, selection, outgoing, guard
        self._governance = governance
        self._report, self._unread, self._state = report, unread, state
        self._files, self._inputs_of, self._experiment = files, inputs_of, experiment
        self._deployments = deployments
        self._models: list[RegisteredModel] = []
        self._versions = VersionIndex(selection.versions_in_memory)
        self._logged = LoggedModelIndex(selection.most_logged_models)
        self._with_slash: set[str] = set()  # names of models in the default workspace
        self._has_prompts = False
        self._prompts = HashSet()  # versions, to be linked
        self._prompts_of_run: dict[str, list[PromptVersion]] = {}  # as MLflow 2 has it, which tells of it there
        self._left_out = HashSet()  # logged models whose version is left out
        # Every shard reads all of them, the first counts.
        counts = report if selection.runs.shard.index == 0 else MlflowSourceReport()
        self._models_read, self._versions_read, self._logged_read = counts.models, counts.versions, counts.logged_models

    def close(self) -> None:
        """Removes the temporary files."""
        self._versions.close()
        self._logged.close()

    # --- reading ---

    def read_registry(self, records: Iterable[RegisteredModel | ModelVersion | Unreadable]) -> None:
        """Models and versions, so that each run finds its versions as it passes by."""
        for record in records:
            if not isinstance(record, Unreadable) and self._is_called_like_another(record):
                continue
            if isinstance(record, Unreadable):
                of_models = record.kind == "registered model"
                self._unread.tell(record, self._models_read if of_models else self._versions_read)
                continue
            tally = self._models_read if isinstance(record, RegisteredModel) else self._versions_read
            tally.read += 1
            if not self._selection.model(record.name):
                tally.filtered += 1
                if isinstance(record, ModelVersion) and record.model_id:
                    self._left_out.add(record.model_id)
            elif isinstance(record, RegisteredModel):
                self._models.append(record)
            else:
                self._versions.add(record)
                self._logged.add_version(record)
                if self._deployments:
                    self._deployments.saw(record)
                if is_prompt(record.tags):
                    self._add_prompt(record)

    def _is_called_like_another(self, record: RegisteredModel | ModelVersion) -> bool:
        """Names with a slash are as old as MLflow 3.11: one of them may be called as another in its workspace is."""
        if not record.workspace:
            if "/" in record.name:
                self._with_slash.add(record.name)
            return False
        if record.full_name not in self._with_slash:
            return False
        is_model = isinstance(record, RegisteredModel)
        tally = self._models_read if is_model else self._versions_read
        tally.read += 1
        tally.failed += 1
        if is_model:
            self._report.entity_failure(
                title="Two models would be one in DataHub",
                message="The one in the workspace is left out, with its versions: rename the other.",
                context=f"{record.full_name!r}, and {record.name!r} in workspace {record.workspace}",
            )
        return True

    def _add_prompt(self, version: ModelVersion) -> None:
        prompt = (version.full_name, version.version)
        self._has_prompts = True
        self._prompts.add("\n".join(prompt))
        for run_id in runs_that_used(version):
            self._prompts_of_run.setdefault(run_id, []).append(prompt)

    def read_logged_models(
        self, records: Iterable[LoggedModel | Unreadable], is_wanted: Callable[[LoggedModel], bool]
    ) -> None:
        """Behind the registry. `is_wanted` says which are this shard's, of those that no version was made of."""
        run_of: dict[str, str] = {}
        tally = self._logged_read
        for record in records:
            if isinstance(record, Unreadable):
                self._unread.tell(record, tally)
                continue
            if self._versions.has_registered(record.model_id):  # counted as a version
                self._logged.add_registered(record)
                if record.source_run_id and self._versions.lacks_run(record.model_id):
                    run_of[record.model_id] = record.source_run_id
                continue
            tally.read += 1
            if self._left_out.may_have(record.model_id) or not self._selection.logged_model(record.name):
                tally.filtered += 1
            elif self._unread.versions_missing:
                tally.failed += 1  # it may be one of theirs: it stays as it was
            else:
                self._logged.add_of_its_own(record.model_id)
                if is_wanted(record) and not self._logged.add(record):
                    tally.filtered += 1
        self._versions.recover_runs(run_of)

    # --- what runs ask for ---

    def waited_for(self) -> list[str]:
        """Runs that versions still wait for."""
        return self._versions.run_ids()

    def made_by(self, run: Run) -> tuple[list[ModelVersion], list[LoggedModel]]:
        """What came from this run and is sent: versions, and logged models that are no version."""
        return self._versions.of_run(run.run_id), self._logged.of_run(run.run_id)

    def models_used_by(self, run: Run, logged_models: Iterable[LoggedModel]) -> list[MlModelUrn]:
        """Models, and versions of prompts, that it or a model that it logged says it used; only what is sent."""
        naming = self._rules.naming
        used = [model_version_urn(*prompt, naming) for prompt in self._prompts_used_by(run, logged_models)]
        if (version := self._that_predicted(run)) and self._versions.has(*version):
            used.append(model_version_urn(*version, naming))
        if not run.model_inputs:
            return used
        made = {*(model.model_id for model in logged_models), *(v.model_id for v in self._versions.of_run(run.run_id))}
        models = [
            model_version_urn(*version, naming) if version else logged_model_urn(model_id, naming)
            for model_id in run.model_inputs
            if model_id not in made
            and ((version := self._logged.version_of(model_id)) or self._logged.is_of_its_own(model_id))
        ]
        return [*used, *models]

    def _that_predicted(self, run: Run) -> tuple[str, str] | None:
        said = model_that_predicted(run)
        return (in_workspace(said[0], self._experiment(run.experiment_id).workspace), said[1]) if said else None

    def _prompts_used_by(self, run: Run, logged_models: Iterable[LoggedModel]) -> list[PromptVersion]:
        if not self._has_prompts:
            return []
        workspace = self._experiment(run.experiment_id).workspace
        said = {*self._prompts_of_run.get(run.run_id, ()), *linked_prompts(run.tags, workspace)}
        for model in logged_models:
            said.update(linked_prompts(model.tags, workspace))
        for version in self._versions.of_run(run.run_id):
            if registered := self._logged.registered(version.model_id):
                said.update(linked_prompts(registered.tags, workspace))
        return sorted(prompt for prompt in said if self._prompts.may_have("\n".join(prompt)))

    # --- model files ---

    def with_files(self, runs: Iterator[Run]) -> Iterator[Run]:
        """The same runs, each once the files of the models that it made are there."""
        return self._files.ahead(runs, self._files_of_run) if self._files else runs

    def _files_of_run(self, run: Run) -> Iterator[WantedFile]:
        for version in self._versions.of_run(run.run_id):
            yield from self._file_of_version(version, run)
        if self._selection.include_artifacts == "all":
            yield from map(self._file_of_logged_model, self._logged.of_run(run.run_id))

    def _file_of_version(self, version: ModelVersion, run: Run | None = None) -> Iterator[WantedFile]:
        """None, where the recipe doesn't choose it, or it is a prompt, which has no file."""
        if is_prompt(version.tags):
            return
        is_latest = self._versions.latest(version.full_name) == version.version
        current = is_latest or version.aliases or version.stage in _STAGES_IN_USE
        if current or self._selection.include_artifacts == "all":
            logged = self._logged.registered(version.model_id) or self._logged_as(version, run)
            made = run or logged
            workspace = self._experiment(made.experiment_id).workspace if made else version.workspace
            yield file_of_version(version, run, logged, workspace)

    def _file_of_logged_model(self, model: LoggedModel) -> WantedFile:
        return file_of_logged_model(model, self._experiment(model.experiment_id).workspace)

    def _logged_as(self, version: ModelVersion, run: Run | None) -> LoggedModel | None:
        """The logged model that `runs:/<run>/<name>` stands for, since MLflow 3."""
        if run is None or not version.source.startswith(start := f"runs:/{run.run_id}/"):
            return None
        registered = (self._logged.registered(other.model_id) for other in self._versions.of_run(run.run_id))
        models = [*self._logged.of_run(run.run_id), *filter(None, registered)]
        return next((model for model in models if model.name == version.source.removeprefix(start)), None)

    # --- sending ---

    def of_run(self, run: Run, registry: ContainerUrn, *, run_is_sent: bool) -> Units:
        """What this run made, behind the run itself."""
        for version in self._versions.take(run.run_id):
            if run_is_sent:
                self._versions.run_sent(version)
            elif self._is_unread(run.run_id) and self._version_stays(version):
                continue
            yield from self._version(version, run, registry, run_is_sent=run_is_sent)
        for model in self._logged.take(run.run_id):
            yield from self._logged_model(model, run, run_is_sent=run_is_sent)

    def versions_left(self, registry: ContainerUrn) -> Units:
        """Those that came from no run, and from those that MLflow has no more, can't serve, or that are left out."""
        left: Iterator[ModelVersion] = (
            version
            for version in self._versions.take_all()
            if not (version.run_id and self._is_unread(version.run_id) and self._version_stays(version))
        )
        for version in self._files.ahead(left, self._file_of_version) if self._files else left:
            yield from self._version(version, None, registry, run_is_sent=False)

    def logged_models_left(self) -> Units:
        """The same."""
        left = self._logged.take_all()
        if self._files and self._selection.include_artifacts == "all":
            left = self._files.ahead(left, lambda model: [self._file_of_logged_model(model)])
        for model in left:
            yield from self._logged_model(model, None, run_is_sent=False)

    def models(self, registry: ContainerUrn) -> Units:
        """At the end, when it is known which of their versions' runs were sent."""
        for model in self._models:
            latest, run_ids = self._versions.latest(model.full_name), self._versions.runs_sent(model.full_name)
            tally, make_urn = self._report.models, partial(model_group_urn, model.full_name, self._rules.naming)
            sent = tally.sent
            mapped = partial(map_model, model, latest, run_ids, registry, self._rules)
            yield from self._outgoing.send(tally, model.full_name, make_urn, mapped)
            if tally.sent > sent:
                subject = partial(subject_of_model, model, self._governance.users_of(model.full_name))
                yield from self._governance.units(make_urn(), subject, model=model.full_name)

    def _version(self, version: ModelVersion, run: Run | None, registry: ContainerUrn, *, run_is_sent: bool) -> Units:
        self._governance.note_user(version.full_name, creator_of(version, run))
        logged = self._logged.registered(version.model_id)
        unknown = version.model_id and logged is None and self._unread.logged_models_missing
        if (unknown or not version.aliases_known) and self._version_stays(version):
            return

        def mapped() -> Entity:
            inputs = self._inputs_of(run) if run and run_is_sent else []
            file = self._files.of(version_key(version)) if self._files else None
            served = self._deployments.of_version(version) if self._deployments else ()
            return map_version(version, run, run_is_sent, logged, file, inputs, served, registry, self._rules)

        make_urn = partial(model_version_urn, version.full_name, version.version, self._rules.naming)
        tally = self._report.versions
        sent = tally.sent
        yield from self._outgoing.send(tally, f"{version.full_name} version {version.version}", make_urn, mapped)
        if tally.sent == sent:
            self._keep_logged_model_of(version)
            return
        urn = make_urn()
        if version.model_id and self._guard.may_have_been_sent(self._logged_model_urn(version.model_id)):
            self._state.registered[version.model_id] = str(urn)

        def subject() -> Subject:
            experiment = self._experiment(run.experiment_id) if run else None
            file = self._files.of(version_key(version)) if self._files else None
            inputs = self._inputs_of(run) if run and run_is_sent else []
            return subject_of_version(version, run, experiment, file, inputs)

        yield from self._governance.units(urn, subject, version.stage)

    def _logged_model(self, model: LoggedModel, run: Run | None, *, run_is_sent: bool) -> Units:
        tally = self._report.logged_models
        unread = model.source_run_id and not run_is_sent and self._is_unread(model.source_run_id)
        if unread and self._stays_as_it_was(self._logged_model_urn(model.model_id), tally):
            return

        def mapped() -> Entity:
            inputs = self._inputs_of(run) if run and run_is_sent else []
            experiment = self._experiment(model.experiment_id)
            file = self._files.of(model.model_id) if self._files else None
            return map_logged_model(model, run, run_is_sent, file, inputs, experiment, self._rules)

        make_urn = partial(logged_model_urn, model.model_id, self._rules.naming)
        sent = tally.sent
        yield from self._outgoing.send(tally, f"{model.name} ({model.model_id})", make_urn, mapped)
        if tally.sent > sent:
            subject = partial(subject_of_logged_model, model, run, self._experiment(model.experiment_id))
            yield from self._governance.units(make_urn(), subject)

    def _logged_model_urn(self, model_id: str) -> str:
        return str(logged_model_urn(model_id, self._rules.naming))

    def _is_unread(self, run_id: str) -> bool:
        """Or may be: then its version would lose the link to a run that is in DataHub."""
        return self._unread.runs_missing or run_id in self._unread.run_ids

    def _version_stays(self, version: ModelVersion) -> bool:
        urn = str(model_version_urn(version.full_name, version.version, self._rules.naming))
        if not self._stays_as_it_was(urn, self._report.versions):
            return False
        self._keep_logged_model_of(version)
        self._governance.user_unknown(version.full_name)
        return True

    def _keep_logged_model_of(self, version: ModelVersion) -> None:
        """Which has an entity, if it was sent before it was registered."""
        if version.model_id:
            self._guard.keep(self._logged_model_urn(version.model_id))

    def _stays_as_it_was(self, urn: str, tally: Tally) -> bool:
        """Where part of what belongs to it could not be read: if DataHub has it, better as it was than without that."""
        if not self._guard.knows(urn):
            return False
        self._guard.keep(urn)
        tally.failed += 1
        return True

    # --- shards ---

    def hand_over(self, run: Run, *, is_sent: bool) -> None:
        """To another shard, which reads this run.

        Noted for the closing step: nobody sends them, where the run goes away before its shard reads it.
        """
        for version in self._versions.take(run.run_id):
            if is_sent:
                self._versions.run_sent(version)
            self._governance.note_user(version.full_name, creator_of(version, run))
            urn = model_version_urn(version.full_name, version.version, self._rules.naming)
            self._state.handed_over.append(str(urn))
