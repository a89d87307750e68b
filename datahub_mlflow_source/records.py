"""What a reader hands over: MLflow's entities as plain values, nothing of DataHub.

Times are epoch milliseconds. Strings are as MLflow holds them, credentials included: mapping
removes those. Tuples are in the order in which they are to be shown, the same from every reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Tags = tuple[tuple[str, str], ...]  # (key, value), sorted by key

# MLflow keeps a prompt (since 2.21) as a registered model with this tag, and so its versions.
PROMPT_TAG = ("mlflow.prompt.is_prompt", "true")


class Metric(NamedTuple):  # there are many: a dataclass that nobody may change takes three times as long to make
    """The last value logged under a key."""

    key: str
    value: float  # NaN possible. ±inf reads as ±1.797e308: MLflow's database stores it so
    timestamp: int
    step: int


class MetricHistory(NamedTuple):
    """What all values of one metric in a run come to. None where all of them are NaN."""

    key: str
    steps: int  # different ones
    first_time: int
    last_time: int
    highest: float | None
    highest_step: int | None  # the first that had it
    lowest: float | None
    lowest_step: int | None


class ModelMetric(NamedTuple):
    """The last value logged under a key for a logged model on a dataset, or on none. NaN reads as 0: MLflow's loss."""

    key: str
    value: float
    timestamp: int
    step: int
    run_id: str  # of the run that logged it: the model's own, or one that evaluated it
    dataset_name: str  # "" where it is of no dataset
    dataset_digest: str


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset that a run says it read."""

    name: str
    digest: str
    source_type: str  # "s3", "delta_table", "code", …
    source: str  # JSON, whose form depends on source_type
    schema: str | None  # JSON: mlflow_colspec or mlflow_tensorspec
    profile: str | None  # JSON: row counts and the like
    tags: Tags  # of the input, not of the dataset: "mlflow.data.context" is one


DEFAULT_WORKSPACE = "default"  # where everything is, unless a server was told to have several (MLflow 3.10)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A part of MLflow with experiments, models and permissions of its own."""

    name: str
    description: str = ""
    artifact_root: str = ""  # where its experiments keep their files, unless they say otherwise
    trace_archival_location: str = ""
    trace_archival_retention: str = ""  # "30d"


@dataclass(frozen=True, slots=True)
class Experiment:
    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str  # "active" or "deleted"
    creation_time: int | None
    last_update_time: int | None
    tags: Tags
    workspace: str = ""  # but the default one


@dataclass(frozen=True, slots=True)
class Run:
    run_id: str
    name: str
    experiment_id: str
    user_id: str
    status: str  # RUNNING, SCHEDULED, FINISHED, FAILED, KILLED
    start_time: int | None  # None only where the database is read directly: no server serves such a row
    end_time: int | None  # None while the run goes on, or where nobody ended it
    artifact_uri: str
    lifecycle_stage: str  # "active" or "deleted"
    params: Tags
    metrics: tuple[Metric, ...]  # sorted by key
    tags: Tags
    datasets: tuple[DatasetInput, ...]  # sorted by name, digest
    histories: tuple[MetricHistory, ...] = ()  # sorted by key; of those metrics that were asked for
    model_inputs: tuple[str, ...] = ()  # ids of logged models that it used, sorted; only MLflow's database says it


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    name: str
    creation_time: int | None
    last_updated_time: int | None
    description: str
    tags: Tags
    aliases: Tags  # (alias, version)
    workspace: str = ""  # but the default one

    @property
    def full_name(self) -> str:
        """As no other has it: two workspaces may have models of one name."""
        return in_workspace(self.name, self.workspace)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    name: str  # of the registered model
    version: str
    creation_time: int | None
    last_updated_time: int | None
    description: str
    user_id: str  # mostly empty in open-source MLflow
    stage: str  # "None", "Staging", "Production", "Archived"
    source: str  # artifact URI, or models:/m-… in MLflow 3
    run_id: str  # empty where it was registered without a run
    status: str  # READY, PENDING_REGISTRATION, FAILED_REGISTRATION
    status_message: str
    run_link: str
    tags: Tags
    aliases: tuple[str, ...]  # sorted; joined in from the registered model
    aliases_known: bool = True  # False where that could not be read, or was not there yet when models were listed
    model_id: str = ""  # of the logged model that was registered; empty before MLflow 3, and for other sources
    storage_location: str = ""  # where its files really are; only MLflow's database says it
    workspace: str = ""  # but the default one

    @property
    def full_name(self) -> str:
        """Of the registered model, as no other has it."""
        return in_workspace(self.name, self.workspace)


def in_workspace(model: str, workspace: str) -> str:
    """The name of a model as no other has it: by itself none holds a slash."""
    return f"{workspace}/{model}" if workspace else model


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model that MLflow 3 keeps whether it is registered or not."""

    model_id: str  # m-<32 hex digits>
    name: str  # what the code that logged it called it: many have the same
    experiment_id: str
    source_run_id: str  # empty where it was logged outside a run
    model_type: str  # what people say it is; mostly empty
    status: str  # PENDING, READY, FAILED, UNSPECIFIED
    status_message: str
    artifact_uri: str
    creation_time: int | None
    last_updated_time: int | None
    params: Tags
    metrics: tuple[ModelMetric, ...]  # sorted by key, dataset
    tags: Tags


@dataclass(frozen=True, slots=True)
class EvaluationDataset:
    """Inputs and expected outputs that models are measured with (MLflow 3.4)."""

    dataset_id: str  # d-<32 hex digits>
    name: str
    digest: str
    schema: str | None  # JSON: {"inputs": {name: type}, "outputs": …, "expectations": …}
    profile: str | None  # JSON: {"num_records": 3}
    creation_time: int | None
    last_updated_time: int | None
    created_by: str
    last_updated_by: str
    tags: Tags
    experiment_ids: tuple[str, ...]  # that it belongs to, sorted


class Scorer(NamedTuple):
    """The newest version of a judge or function that measures answers (MLflow 3.4)."""

    experiment_id: str
    name: str
    version: int
    definition: str  # JSON, see `SerializedScorer` in mlflow/genai/scorers/base.py


TOKENS = ("input_tokens", "output_tokens", "total_tokens")  # as MLflow calls them


@dataclass(frozen=True, slots=True)
class TraceCounts:
    """The traces of one experiment, in numbers."""

    experiment_id: str
    by_status: tuple[tuple[str, int], ...]  # OK, ERROR, IN_PROGRESS; sorted
    mean_millis: int | None  # of those that ended
    longest_millis: int | None
    tokens: tuple[tuple[str, int], ...]  # in the order of TOKENS, where any trace says so
    assessments: tuple[tuple[str, int], ...]  # by name, sorted


GATEWAY = "gateway"  # the target of what MLflow's own server serves


@dataclass(frozen=True, slots=True)
class ModelDeployment:
    """Where a model answers: an endpoint of MLflow's gateway, a server, a deployment of another target."""

    target: str  # "gateway", or as the recipe names it
    name: str
    status: str = ""  # as whoever runs it says it; empty where nobody does
    url: str = ""
    creation_time: int | None = None
    last_updated_time: int | None = None
    models: tuple[str, ...] = ()  # of MLflow, as its addresses have them: `models:/churn/3`, `models:/churn@champion`
    said: Tags = ()  # all else
    tags: Tags = ()
    endpoint_id: str = ""  # in MLflow's gateway
    experiment_id: str = ""  # that an endpoint of the gateway leaves its traces in
    workspace: str = ""  # but the default one


@dataclass(frozen=True, slots=True)
class Flavor:
    """One form in which a model can be loaded."""

    name: str  # "sklearn", "python_function", …
    attributes: Tags  # what nests is JSON


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What the file `MLmodel` in a model's folder says. Numbers are texts, as they stand there."""

    flavors: tuple[Flavor, ...]  # sorted by name
    inputs: str  # the signature's three parts as JSON, as MLflow has it; "" where there is none
    outputs: str
    params: str
    others: Tags  # all else at its top, sorted; what nests is JSON
    card: str  # path of a model card beside it, as far as the file tells; "" where it names none


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where the files of a model lie, in all the words that somebody may understand."""

    uri: str  # as the artifact store has it
    name: str = ""  # of the registered model, with the version; "" where it is not registered
    version: str = ""
    model_id: str = ""  # of the logged model
    run_id: str = ""  # where it is in the artifacts of a run, at this path
    path_in_run: str = ""
    workspace: str = ""  # of the run or logged model, but the default one
    registered_in: str = ""  # workspace of the registered model, likewise


# What became of a model file: `tag` where the run kept a copy of it among its tags.
FileState = Literal["read", "tag", "missing", "unreadable"]


@dataclass(frozen=True, slots=True)
class FoundFile:
    state: FileState
    file: ModelFile | None = None  # where it was read, or the run kept it
    card: str = ""  # the text of the model card beside it


Kind = Literal[
    "experiment",
    "run",
    "registered model",
    "model version",
    "logged model",
    "evaluation dataset",
    "deployment",
    "gateway endpoint",
]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that MLflow holds and can't serve, or a listing that broke off: something is missing here."""

    kind: Kind
    what: str  # as exact as could be found out: an id, a name, or the place in a listing
    reason: str
    run_id: str = ""  # where it is a run whose id was found out
    listing_broke_off: bool = False  # True: nobody knows what else is missing
    not_shown: bool = False  # True: nothing is wrong, but this user may not see it, or MLflow doesn't have it there
    changed_meanwhile: bool = False  # True: nothing is wrong, but something may have been passed over this time
