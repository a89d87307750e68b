"""The trees that `make demo` ends with. Aspects are written out in the JSON form in which DataHub Lite stores them."""

from __future__ import annotations

import json
from typing import Any

from demo.tree import WIDTH, Catalog, Node, counts, draw, experiments, model_groups, tree_lines

GROUP = "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,churn,PROD)"
EXPERIMENT = "urn:li:container:e1"
DATASET = "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-0a1b2c3d,PROD)"
OBJECT = "urn:li:dataset:(urn:li:dataPlatform:s3,lake/churn/train.csv,PROD)"

Entities = dict[str, dict[str, Any]]


def make_catalog(*entities: Entities) -> Catalog:
    return Catalog(make_rows(*entities))


def make_rows(*entities: Entities) -> list[tuple[str, str, str]]:
    return [
        (urn, name, json.dumps(aspect))
        for entity in entities
        for urn, aspects in entity.items()
        for name, aspect in aspects.items()
    ]


def make_group(description: str | None = "Who leaves?") -> Entities:
    properties = {"customProperties": {}, "name": "churn"} | ({"description": description} if description else {})
    return {GROUP: {"mlModelGroupProperties": properties, "subTypes": {"typeNames": ["ML Model Group"]}}}


def version_urn(version: str) -> str:
    return f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_{version},PROD)"


def make_version(version: str, *aliases: str, run: str | None = None, tags: tuple[str, ...] = ()) -> Entities:
    return {
        version_urn(version): {
            "mlModelProperties": {"name": "churn", "groups": [GROUP], "trainingJobs": [run] if run else []},
            "versionProperties": {
                "version": {"versionTag": version},
                "aliases": [{"versionTag": alias} for alias in aliases],
                "sortId": version.zfill(10),
            },
            "globalTags": {"tags": [{"tag": f"urn:li:tag:{tag}"} for tag in tags]},
            "subTypes": {"typeNames": ["ML Model"]},
        }
    }


def test_a_version_says_what_it_takes_where_its_file_was_read() -> None:
    version = make_version("1")
    properties = version[version_urn("1")]["mlModelProperties"]
    columns = json.dumps([{"type": "double", "name": "age"}, {"type": "double", "name": "tenure"}])
    properties |= {"type": "sklearn", "customProperties": {"signature.inputs": columns}}
    (group,) = model_groups(make_catalog(make_group(), version))
    assert group.children == [Node("version 1", [Node("sklearn, takes 2 columns: age, tenure")])]


def run_urn(name: str) -> str:
    return f"urn:li:dataProcessInstance:{name}"


def make_run(
    name: str, started: int = 0, status: str | None = "FINISHED", parent: str | None = None, **aspects: Any
) -> Entities:
    ended = {"status": "COMPLETE", "result": {"type": "SUCCESS", "nativeResultType": status}}
    parents = {"parentInstance": run_urn(parent)} if parent else {}
    return {
        run_urn(name): {
            "dataProcessInstanceProperties": {"name": name, "created": {"time": started, "actor": "urn:li:corpuser:a"}},
            "dataProcessInstanceRunEvent": ended if status else {"status": "STARTED"},
            "dataProcessInstanceRelationships": {"upstreamInstances": [], **parents},
            "container": {"container": EXPERIMENT},
            **aspects,
        }
    }


def make_experiment() -> Entities:
    properties = {"name": "churn-2026", "customProperties": {}}
    return {EXPERIMENT: {"containerProperties": properties, "subTypes": {"typeNames": ["ML Experiment"]}}}


def make_metrics(**metrics: str) -> dict[str, Any]:
    return {"trainingMetrics": [{"name": name, "value": value} for name, value in metrics.items()]}


def make_dataset(upstream: str = OBJECT) -> Entities:
    return {
        DATASET: {
            "datasetProperties": {"name": "train", "customProperties": {}},
            "upstreamLineage": {"upstreams": [{"dataset": upstream, "type": "COPY"}]},
        }
    }


def make_input(**properties: str) -> dict[str, Any]:
    return make_inputs(properties)


def make_inputs(*said: dict[str, str]) -> dict[str, Any]:
    return {"inputs": [], "inputEdges": [{"destinationUrn": DATASET, "properties": properties} for properties in said]}


def test_a_model_leads_through_version_and_run_to_the_real_data() -> None:
    run = make_run(
        "forest",
        mlTrainingRunProperties=make_metrics(accuracy="0.97265625", f1="0.9"),
        dataProcessInstanceInput=make_input(name="train", digest="ab12cd34", context="training"),
    )
    version = make_version("2", "champion", run=run_urn("forest"), tags=("mlflow_production",))
    catalog = make_catalog(make_group(), make_version("1"), version, run, make_dataset())
    assert draw(model_groups(catalog)) == [
        "└─ churn · Who leaves?",
        "   ├─ version 1",
        "   └─ version 2 ★champion · production",
        "      └─ run forest · FINISHED · accuracy 0.9727, f1 0.9",
        "         └─ training data train (digest ab12cd34)",
        "            └─ from s3: lake/churn/train.csv",
    ]


def test_version_10_comes_after_version_9() -> None:
    catalog = make_catalog(make_group(description=None), make_version("10"), make_version("9"))
    assert draw(model_groups(catalog)) == ["└─ churn", "   ├─ version 9", "   └─ version 10"]


def test_each_alias_has_a_star_and_other_tags_are_no_stage() -> None:
    version = make_version("1", "champion", "eu", tags=("pii", "mlflow_alias_champion", "mlflow_archived"))
    [group] = model_groups(make_catalog(make_group(), version))
    assert group.children == [Node("version 1 ★champion ★eu · archived")]


def test_of_a_description_the_first_line_is_shown() -> None:
    [group] = model_groups(make_catalog(make_group(description="Who leaves?\n\nAsk Ana.")))
    assert group.text == "churn · Who leaves?"


def test_a_run_that_the_catalog_does_not_have_is_shown_by_its_urn() -> None:
    [group] = model_groups(make_catalog(make_group(), make_version("1", run=run_urn("gone"))))
    assert group.children == [Node("version 1", [Node("run urn:li:dataProcessInstance:gone")])]


def test_nested_runs_hang_from_their_parent_in_the_order_they_started() -> None:
    catalog = make_catalog(
        make_experiment(),
        make_run("depth-2", started=3, parent="sweep"),
        make_run("depth-4", started=2, parent="sweep"),
        make_run("sweep", started=1),
        make_run("baseline", started=0),
    )
    assert draw(experiments(catalog)) == [
        "└─ churn-2026",
        "   ├─ run baseline · FINISHED",
        "   └─ run sweep · FINISHED",
        "      ├─ run depth-4 · FINISHED",
        "      └─ run depth-2 · FINISHED",
    ]


def test_a_run_whose_parent_is_not_in_the_catalog_hangs_from_its_experiment() -> None:
    [experiment] = experiments(make_catalog(make_experiment(), make_run("orphan", parent="gone")))
    assert experiment.children == [Node("run orphan · FINISHED")]


def test_a_run_names_the_versions_it_made() -> None:
    output = {"outputs": [], "outputEdges": [{"destinationUrn": version_urn("3")}]}
    run = make_run("forest", dataProcessInstanceOutput=output)
    catalog = make_catalog(make_experiment(), make_group(), make_version("3", "champion"), run)
    [experiment] = experiments(catalog)
    assert experiment.children == [Node("run forest · FINISHED", [Node("→ churn version 3 ★champion")])]


def test_a_failed_run_says_so_and_one_without_an_end_is_running() -> None:
    catalog = make_catalog(
        make_experiment(), make_run("a", started=1, status="FAILED"), make_run("b", started=2, status=None)
    )
    [experiment] = experiments(catalog)
    assert [run.text for run in experiment.children] == ["run a · FAILED", "run b · RUNNING"]


def test_containers_of_other_kinds_are_no_experiments() -> None:
    registry = {"urn:li:container:r": {"subTypes": {"typeNames": ["Model Registry"]}}}
    assert experiments(make_catalog(registry)) == []


def test_three_metrics_are_shown_and_more_are_hinted_at() -> None:
    run = make_run("a", mlTrainingRunProperties=make_metrics(a="1.0", b="nan", c="1e-07", d="4"))
    [experiment] = experiments(make_catalog(make_experiment(), run))
    assert experiment.children[0].text == "run a · FINISHED · a 1, b nan, c 1e-07, …"


def test_of_a_long_source_the_end_is_shown() -> None:
    path = "/srv/" + 20 * "folder/" + "train.csv"
    file = f"urn:li:dataset:(urn:li:dataPlatform:file,{path},PROD)"
    run = make_run("a", dataProcessInstanceInput=make_input())
    catalog = make_catalog(make_group(), make_version("1", run=run_urn("a")), run, make_dataset(upstream=file))
    assert draw(model_groups(catalog))[-2:] == [
        "         └─ input data train (digest ?)",
        "            └─ from file: …der/folder/folder/folder/folder/folder/folder/folder/folder/train.csv",
    ]


def test_training_data_comes_before_validation_data() -> None:
    run = make_run("a", dataProcessInstanceInput=make_inputs({"context": "validation"}, {"context": "training"}))
    [group] = model_groups(make_catalog(make_group(), make_version("1", run=run_urn("a")), run))
    texts = [dataset.text.split()[0] for dataset in group.children[0].children[0].children]
    assert texts == ["training", "validation"]


def test_no_line_is_wider_than_the_terminal() -> None:
    lines = draw([Node("ä" * 96), Node("b" * 97), Node("c" * 98, [Node("d" * 200)])])
    assert [len(line) for line in lines] == [99, 100, 100, 100]
    assert lines[2] == "└─ " + "c" * 96 + "…"
    assert WIDTH == 100


def test_a_branch_goes_on_beside_the_children_of_all_but_the_last() -> None:
    assert draw([Node("a", [Node("b")]), Node("c", [Node("d")])]) == ["├─ a", "│  └─ b", "└─ c", "   └─ d"]


def test_entities_are_counted_by_type_and_subtype() -> None:
    catalog = make_catalog(make_group(), make_version("1"), make_version("2"), make_dataset())
    assert counts(catalog) == ["    1 dataset", "    2 mlModel (ML Model)", "    1 mlModelGroup (ML Model Group)"]


def test_the_page_has_both_trees_and_the_counts() -> None:
    lines = tree_lines(make_rows(make_group(), make_experiment()))
    assert lines == [
        "Registered models → versions → the run each came from → the data it was trained on",
        "└─ churn · Who leaves?",
        "",
        "Experiments → runs → the model versions they made",
        "└─ churn-2026",
        "",
        "Entities in the catalog",
        "    1 container (ML Experiment)",
        "    1 mlModelGroup (ML Model Group)",
    ]
