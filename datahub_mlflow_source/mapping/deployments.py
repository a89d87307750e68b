"""Where models are served."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datahub.metadata.schema_classes import (
    ContainerClass,
    DataPlatformInstanceClass,
    DeploymentStatusClass,
    MLModelDeploymentPropertiesClass,
    VersionTagClass,
    _Aspect,
)

from datahub_mlflow_source.addresses import without_secrets
from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim
from datahub_mlflow_source.mapping.urns import PLATFORM_URN, deployment_urn, platform_instance_urn, workspace_urn
from datahub_mlflow_source.records import Experiment, ModelDeployment
from datahub_mlflow_source.redaction import HIDDEN, redact

# Words of Kubernetes, SageMaker, Databricks and people, without blanks and dashes.
_WORDS = {
    DeploymentStatusClass.IN_SERVICE: "inservice ready running active available healthy up online deployed serving "
    "ok live",
    DeploymentStatusClass.OUT_OF_SERVICE: "outofservice stopped down inactive offline undeployed paused disabled "
    "retired unavailable unhealthy notready scaledtozero",
    DeploymentStatusClass.CREATING: "creating pending starting provisioning deploying containercreating inprogress",
    DeploymentStatusClass.UPDATING: "updating systemupdating progressing restarting",
    DeploymentStatusClass.ROLLING_BACK: "rollingback updaterollingback",
    DeploymentStatusClass.DELETING: "deleting terminating",
    DeploymentStatusClass.FAILED: "failed failure error updatefailed crashloopbackoff updaterollbackfailed",
}
_STATUS = {word: status for status, words in _WORDS.items() for word in words.split()}
_BETWEEN_WORDS = re.compile(r"[\s_-]")


def map_deployment(
    deployment: ModelDeployment,
    versions: Sequence[tuple[str, str]],
    experiment: Experiment | None,
    rules: Rules,
) -> Entity:
    """Everything DataHub keeps about one. `versions`: full names and numbers of those that it serves.

    DataHub has no field for its name, and shows that of the URN.
    """
    trim = Trim(rules.limits)
    one = versions[0][1] if len(versions) == 1 else None
    properties = MLModelDeploymentPropertiesClass(
        customProperties=trim.properties(
            deployment.tags,
            [
                *deployment.said,
                ("target", deployment.target),
                ("name", deployment.name),
                ("status", deployment.status),
                ("url", deployment.url),
                ("endpoint_id", deployment.endpoint_id),
                ("models", ", ".join(deployment.models)),
                ("versions", ", ".join(f"{name} version {version}" for name, version in versions)),
                ("experiment", experiment.name if experiment else deployment.experiment_id),
                ("workspace", deployment.workspace),
                ("last_updated_time", str(deployment.last_updated_time or "")),
            ],
        ),
        externalUrl=_link(deployment, rules),
        createdAt=deployment.creation_time,
        version=VersionTagClass(one) if one else None,
        status=status_of(deployment.status),
    )
    instance = platform_instance_urn(rules.naming)
    aspects: list[_Aspect] = [
        properties,
        DataPlatformInstanceClass(PLATFORM_URN, str(instance) if instance else None),
    ]
    if deployment.workspace:
        aspects.append(ContainerClass(str(workspace_urn(deployment.workspace, rules.naming))))
    return Entity(deployment_urn(deployment, rules.naming), aspects, trim.cut)


def status_of(word: str) -> str:
    """DataHub's word for it."""
    return _STATUS.get(_BETWEEN_WORDS.sub("", word.lower()), DeploymentStatusClass.UNKNOWN)


def _link(deployment: ModelDeployment, rules: Rules) -> str | None:
    if deployment.endpoint_id:
        return rules.web.of(deployment.workspace).gateway_endpoint(deployment.endpoint_id)
    if not deployment.url.startswith(("http://", "https://")):
        return None
    try:
        link = redact(without_secrets(deployment.url))
    except ValueError:
        return None
    return None if HIDDEN in link else link
