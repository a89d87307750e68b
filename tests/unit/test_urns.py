"""URNs are the built-in's for plain names, and for odd ones what DataHub's server accepts, never two names in one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from datahub.api.entities.dataprocess.dataprocess_instance import DataProcessInstance
from datahub.emitter import mce_builder
from datahub.emitter.mcp_builder import ExperimentKey
from datahub.metadata.urns import CorpUserUrn, DatasetUrn, MlModelGroupUrn, MlModelUrn, Urn, VersionSetUrn

from datahub_mlflow_source.mapping.urns import (
    Naming,
    dataset_urn,
    encoded_length,
    escaped,
    experiment_urn,
    is_shortened,
    model_group_urn,
    model_version_urn,
    platform_instance_urn,
    registry_urn,
    run_urn,
    stage_tag_urn,
    user_urn,
    version_set_urn,
)
from tests.support.gms import urns as server
from tests.unit.records import RUN_ID

PLAIN = Naming()
DEV = Naming(env="DEV")
EU = Naming(platform_instance="eu")
BUILT_INS_PLATFORM = "urn:li:dataPlatform:mlflow"
BUILT_INS_NAMES = ["churn", "churn-model", "churn model", "it's", "a/b:c", "需求", "100% sure", "a.b_1"]
CJK = "模" * 300

NASTY = [
    *("a,b", "a%2Cb", "a%252Cb", "a%25252Cb", "a%2cb", "a%25,b", "a%,b", "a%2,b", "a%2%2Cb", "a,%2Cb", "a%2C,b"),
    *("a(b)", "a%28b%29", "a%2528b%2529", "a%28b)", "(", ")", "()", "%28", "%29"),
    *("a␟b", "a%E2%90%9Fb", "a%25E2%2590%259Fb", "a%E2%2590%9Fb", "a%25E2%90%9Fb", "␟", "%E2", "%E2%90"),
    *("%", "%%", "%25", "%2525", "%2", "%2C", "%252C", "%%2C", "%25%2C", "%25,"),
    *("a b", "a+b", "a%20b", "A B", "a  b", " a b", "a b "),
    *("it's", "its", '"x"', "x", "/", "a/b", "a%2Fb", "\\", "~", "*", "\t", "#", "?", "&"),
    *("\u00e9", "e\u0301", "e", "😀", "模型/卡", "fraud, v2 (EU)", "urn:li:mlModel:(x,y,PROD)"),
    *(CJK, "模" * 299, "模" * 301, "模" * 299 + "型", "型" + "模" * 299, "模" * 46),
    *("x" * 438, "x" * 439, "x" * 440, "x" * 441, "x" * 600, "x" * 601, "," * 300, "␟" * 300, "%2C" * 200),
    "模" * 46 + "~e5c4779ef9c3db58",  # what the name of 300 is shortened to
]

ENTITIES: dict[str, Callable[[str], Urn]] = {
    "experiment": lambda name: experiment_urn(name, PLAIN),
    "group": lambda name: model_group_urn(name, PLAIN),
    "version": lambda name: model_version_urn(name, "1", PLAIN),
    "version set": lambda name: version_set_urn(name, PLAIN),
    "dataset": lambda name: dataset_urn(name, "s3|s3://bucket/train.csv", PLAIN),
    "run": lambda name: run_urn(name, PLAIN),
}


# Drop-in: what the built-in makes, by the code that it uses


@pytest.mark.parametrize("name", BUILT_INS_NAMES)
def test_an_experiment_has_the_built_ins_urn(name: str) -> None:
    assert str(experiment_urn(name, PLAIN)) == ExperimentKey(platform=BUILT_INS_PLATFORM, id=name).as_urn()


def test_a_run_has_the_built_ins_urn() -> None:
    assert run_urn(RUN_ID, PLAIN) == DataProcessInstance(id=RUN_ID, orchestrator="mlflow").urn


@pytest.mark.parametrize("env", ["PROD", "DEV"])
@pytest.mark.parametrize("name", BUILT_INS_NAMES)
def test_a_group_has_the_built_ins_urn(name: str, env: str) -> None:
    assert str(model_group_urn(name, Naming(env))) == mce_builder.make_ml_model_group_urn("mlflow", name, env)


@pytest.mark.parametrize("env", ["PROD", "DEV"])
@pytest.mark.parametrize("name", BUILT_INS_NAMES)
def test_a_version_has_the_built_ins_urn(name: str, env: str) -> None:
    expected = mce_builder.make_ml_model_urn("mlflow", f"{name}-v12", env)
    assert str(model_version_urn(name, "12", Naming(env, separator="-v"))) == expected


@pytest.mark.parametrize("name", BUILT_INS_NAMES)
def test_a_version_set_has_the_built_ins_urn(name: str) -> None:
    guid = mce_builder.datahub_guid({"platform": "mlflow", "name": name})
    assert version_set_urn(name, PLAIN) == VersionSetUrn(id=guid, entity_type="mlModel")


@pytest.mark.parametrize("stage", ["Production", "Staging", "Archived", "None"])
def test_a_stage_tag_has_the_built_ins_urn(stage: str) -> None:
    assert str(stage_tag_urn(stage)) == mce_builder.make_tag_urn(f"mlflow_{stage.lower()}")


# Pinned: these never change, or DataHub would lose what people wrote on the entities


def test_urns_are_pinned() -> None:
    assert str(experiment_urn("churn", PLAIN)) == "urn:li:container:2c70d8cfd3efcf2280436e1170397400"
    assert str(registry_urn(PLAIN)) == "urn:li:container:687beb58a010ee785e7299b4314060d1"
    assert str(run_urn(RUN_ID, PLAIN)) == "urn:li:dataProcessInstance:f8a6b454e5bb207ff91bea45ae1c96f2"
    assert str(model_group_urn("m", PLAIN)) == "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,m,PROD)"
    assert str(model_version_urn("m", "3", PLAIN)) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,m_3,PROD)"
    expected_set = "urn:li:versionSet:(11536d9f02d893521099ef9b2ec71732,mlModel)"
    assert str(version_set_urn("churn-model", PLAIN)) == expected_set
    expected_dataset = "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)"
    assert str(dataset_urn("train", "s3|s3://bucket/train.csv", PLAIN)) == expected_dataset
    assert str(user_urn("ada")) == "urn:li:corpuser:ada"
    assert platform_instance_urn(PLAIN) is None


def test_urns_with_platform_instance_are_pinned() -> None:
    assert str(experiment_urn("churn", EU)) == "urn:li:container:70d1d1a94ccd1c743b7a3e947c81218d"
    assert str(registry_urn(EU)) == "urn:li:container:f33d0f84b1acdef67a244f5c620ec725"
    assert str(run_urn(RUN_ID, EU)) == "urn:li:dataProcessInstance:c00c12ae5e922bca8aeb4f963eba265a"
    assert str(model_group_urn("m", EU)) == "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,eu.m,PROD)"
    assert str(model_version_urn("m", "3", EU)) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,eu.m_3,PROD)"
    expected_set = "urn:li:versionSet:(2a15cb2d1e2c1e49d548b24c31e2391b,mlModel)"
    assert str(version_set_urn("churn-model", EU)) == expected_set
    expected_dataset = "urn:li:dataset:(urn:li:dataPlatform:mlflow,eu.train-99bf2946,PROD)"
    assert str(dataset_urn("train", "s3|s3://bucket/train.csv", EU)) == expected_dataset
    expected_instance = "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)"
    assert str(platform_instance_urn(EU)) == expected_instance


def test_urns_of_another_env_are_pinned() -> None:
    assert str(model_group_urn("m", DEV)) == "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,m,DEV)"
    assert str(model_version_urn("m", "3", DEV)) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,m_3,DEV)"
    expected_dataset = "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,DEV)"
    assert str(dataset_urn("train", "s3|s3://bucket/train.csv", DEV)) == expected_dataset
    both = Naming(env="DEV", platform_instance="eu")
    assert str(model_version_urn("m", "3", both)) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,eu.m_3,DEV)"


def test_experiments_and_runs_carry_no_env() -> None:
    assert experiment_urn("churn", DEV) == experiment_urn("churn", PLAIN)
    assert run_urn(RUN_ID, DEV) == run_urn(RUN_ID, PLAIN)


def test_version_sets_of_two_environments_are_two() -> None:
    assert str(version_set_urn("churn-model", DEV)) == "urn:li:versionSet:(3a25e2de95121f6df49e19c2d54db6f6,mlModel)"
    both = Naming(env="DEV", platform_instance="eu")
    assert str(version_set_urn("churn-model", both)) == "urn:li:versionSet:(7c0f9574676ce2948cf75eeb0d38d998,mlModel)"


# The registry


def test_an_experiment_called_registry_is_not_the_registry() -> None:
    experiment = experiment_urn("registry", PLAIN)
    assert str(experiment) == ExperimentKey(platform=BUILT_INS_PLATFORM, id="registry").as_urn()
    beside = registry_urn(PLAIN, beside_experiment_of_that_name=True)
    assert str(beside) == "urn:li:container:9a406a231d38b29e00987594ac4cae3b"
    assert beside != experiment


def test_registries_of_two_instances_are_two() -> None:
    found = {
        registry_urn(naming, beside_experiment_of_that_name=beside)
        for naming in (PLAIN, EU, Naming(platform_instance="us"))
        for beside in (True, False)
    }
    assert len(found) == 6


# Odd names


@pytest.mark.parametrize(
    ("name", "in_urn"),
    {
        "churn,eu": "churn%2Ceu",
        "a(b)": "a%28b%29",
        "a␟b": "a%E2%90%9Fb",
        "a%2Cb": "a%252Cb",
        "a%28b%29": "a%2528b%2529",
        "a%E2%90%9Fb": "a%25E2%2590%259Fb",
        "a%252Cb": "a%25252Cb",
        "100% sure": "100% sure",
        "a%20b%2Fc": "a%20b%2Fc",
        "50%, a%2Cb": "50%25%2C a%252Cb",
        "it's": "it's",
        "模型/卡": "模型/卡",
        " leading blank": " leading blank",
        "urn:li:x": "urn:li:x",
    }.items(),
)
def test_a_name_is_encoded_where_datahub_needs_it(name: str, in_urn: str) -> None:
    assert str(model_group_urn(name, PLAIN)) == f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,{in_urn},PROD)"
    assert str(model_version_urn(name, "1", PLAIN)) == f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,{in_urn}_1,PROD)"


def test_instance_and_separator_are_encoded_too() -> None:
    naming = Naming(platform_instance="eu,west", separator=" (v) ")
    expected = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,eu%2Cwest.m %28v%29 3,PROD)"
    assert str(model_version_urn("m", "3", naming)) == expected
    assert str(platform_instance_urn(naming)) == ("urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu%2Cwest)")


@pytest.mark.parametrize("entity", ENTITIES)
def test_no_two_names_have_the_same_urn(entity: str) -> None:
    made = {name: str(ENTITIES[entity](name)) for name in NASTY}
    assert len(made) == len(NASTY), "a name is in the list twice"
    same = [(a, b) for a, b in combinations(made, 2) if made[a] == made[b]]
    assert same == []


def test_no_two_users_have_the_same_urn() -> None:
    users = {name.strip() for name in NASTY} - {""}
    assert len({str(user_urn(name)) for name in users}) == len(users)


def test_escaping_is_injective_also_on_its_own_results() -> None:
    names = {form for name in NASTY for form in (name, escaped(name), escaped(escaped(name)))}
    assert len({escaped(name) for name in names}) == len(names)


@pytest.mark.parametrize("entity", [*ENTITIES, "user"])
def test_datahub_reads_every_urn_back_and_its_server_accepts_it(entity: str) -> None:
    for name in NASTY:
        urn = user_urn(name) if entity == "user" else ENTITIES[entity](name)
        assert Urn.from_string(str(urn)) == urn
        assert server.check(str(urn)).entity_type == str(urn).split(":")[2]


@pytest.mark.parametrize("user", ["", "  ", "\t"])
def test_a_run_of_nobody_is_of_datahubs_unknown_user(user: str) -> None:
    assert user_urn(user) == CorpUserUrn("unknown")


@pytest.mark.parametrize(
    ("user", "urn"),
    {
        " ada@example.com ": "urn:li:corpuser:ada@example.com",
        "Lovelace, Ada (EU)": "urn:li:corpuser:Lovelace%2C Ada %28EU%29",
        "urn:li:corpuser:ada": "urn:li:corpuser:ada",
        "urn:li:corpGroup:(a,b)": "urn:li:corpuser:urn:li:corpGroup:%28a%2Cb%29",
        "urn:li:x": "urn:li:corpuser:urn:li:x",
    }.items(),
)
def test_any_user_id_makes_a_urn(user: str, urn: str) -> None:
    assert str(user_urn(user)) == urn


# Length


@pytest.mark.parametrize(
    ("text", "length"),
    {
        "": 0,
        "azAZ09.-*_": 10,
        " ": 1,
        "~": 3,
        "%": 3,
        ":": 3,
        "!": 3,
        "'": 3,
        "é": 6,
        "模": 9,
        "😀": 12,
        "a%2Cb": 7,
        "urn:li:tag:a b~": 23,
    }.items(),
)
def test_length_is_counted_as_javas_url_encoder_writes_it(text: str, length: int) -> None:
    """All but letters, digits and `.-*_` is %XX per byte of UTF-8, and a blank is one `+`."""
    assert encoded_length(text) == length
    assert server.encoded_length(text) == length


def test_the_longest_name_that_fits_stays_whole() -> None:
    """The rest of a group's URN is 74 bytes: 29 up to the bracket, 35 of platform and comma, 10 at the end."""
    whole, cut = model_group_urn("x" * 438, PLAIN), model_group_urn("x" * 439, PLAIN)
    assert str(whole) == f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,{'x' * 438},PROD)"
    assert encoded_length(str(whole)) == 512
    assert not is_shortened(whole)
    assert is_shortened(cut)
    assert encoded_length(str(cut)) == 512


def test_a_long_name_keeps_its_beginning_and_a_hash_of_all_of_it() -> None:
    """Of the 512 bytes 74 are the rest of the URN and 19 are `~` and the hash: 46 characters of 9 bytes are left."""
    group = model_group_urn(CJK, PLAIN)
    assert str(group) == f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,{'模' * 46}~e5c4779ef9c3db58,PROD)"
    version = model_version_urn(CJK, "1", PLAIN)
    assert str(version) == f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,{'模' * 47}~af0b73f4ec579cc8,PROD)"
    dataset = dataset_urn(CJK, "s3|s3://bucket/train.csv", PLAIN)
    assert str(dataset) == f"urn:li:dataset:(urn:li:dataPlatform:mlflow,{'模' * 47}~ed71cc2a4d05b221,PROD)"


def test_characters_outside_the_first_plane_are_never_cut_in_half() -> None:
    group = model_group_urn("😀" * 60, PLAIN)
    assert str(group) == f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,{'😀' * 34}~3edc8b988175eabb,PROD)"


@pytest.mark.parametrize("name", [CJK, "x" * 600, "😀" * 60, "," * 300, "␟" * 300, "%2C" * 200, "é" * 200])
@pytest.mark.parametrize("entity", ["group", "version", "dataset"])
def test_a_shortened_name_is_told(entity: str, name: str) -> None:
    assert is_shortened(ENTITIES[entity](name))


def test_a_short_name_that_looks_shortened_is_not_told() -> None:
    assert not is_shortened(model_group_urn("x~e5c4779ef9c3db58", PLAIN))
    assert not is_shortened(model_group_urn("x" * 438, PLAIN))


def test_long_names_do_not_meet_in_two_environments_or_instances() -> None:
    namings = [PLAIN, DEV, EU, Naming(platform_instance="us"), Naming(platform_instance="e" * 400)]
    assert len({str(model_version_urn(CJK, "1", naming)) for naming in namings}) == len(namings)


def test_versions_of_a_long_name_stay_apart() -> None:
    urns = {str(model_version_urn(CJK, str(number), PLAIN)) for number in range(1, 101)}
    assert len(urns) == 100


def test_only_guids_stand_for_experiments_runs_and_version_sets_of_any_length() -> None:
    for urn in (experiment_urn(CJK, PLAIN), version_set_urn(CJK, PLAIN), run_urn(CJK, PLAIN)):
        assert encoded_length(str(urn)) < 80


def test_the_parts_of_a_urn_are_what_was_put_in() -> None:
    version = model_version_urn("fraud", "3", DEV)
    assert (version.platform, version.name, version.env) == (BUILT_INS_PLATFORM, "fraud_3", "DEV")
    assert isinstance(version, MlModelUrn)
    assert isinstance(model_group_urn("fraud", DEV), MlModelGroupUrn)
    assert isinstance(dataset_urn("fraud", "x", DEV), DatasetUrn)
