"""Credentials go, everything else stays, and no text takes long."""

from __future__ import annotations

import json

import pytest

from datahub_mlflow_source.redaction import is_secret_key, names_credential, redact, redact_url

SECRET = "hunter2"

URLS = {
    "https://user:hunter2@host/x": "https://host/x",
    "https://hunter2@github.com/org/repo.git": "https://github.com/org/repo.git",
    "https://x-access-token:hunter2@github.com/org/repo.git": "https://github.com/org/repo.git",
    "ftp://u:hunter2@h/k": "ftp://h/k",
    "https://user:hunter2@p@host/x": "https://host/x",
    "mongodb+srv://u:hunter2@cluster/db?retryWrites=true": "mongodb+srv://cluster/db?retryWrites=true",
    "redis://:hunter2@host:6379/0": "redis://host:6379/0",
    "ssh://git:hunter2@host/x": "ssh://host/x",
    "s3n://AKIA:hun/ter2+x/y@bucket/key": "s3n://bucket/key",
    "postgresql+psycopg2://u:hunter2@h:5432/db": "postgresql+psycopg2://h:5432/db",
    "https://host/b.csv?tok=hunter2": "https://host/b.csv?tok=***",
    "https://host/b?x=1&token=hunter2&y=2#part": "https://host/b?x=1&token=***&y=2#part",
    "https://host/#access_token=hunter2&state=1": "https://host/#access_token=***&state=1",
    "https://b.s3.amazonaws.com/k?X-Amz-Credential=hunter2%2F1&X-Amz-Date=2&X-Amz-Signature=hunter2": (
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Signature=***"
    ),
    "https://b.s3.amazonaws.com/k?AWSAccessKeyId=hunter2&Signature=hunter2&Expires=1": (
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=***&Signature=***&Expires=1"
    ),
    "https://a.blob.core.windows.net/c/p?sv=2022&sp=r&sig=hunter2%3D": (
        "https://a.blob.core.windows.net/c/p?sv=2022&sp=r&sig=***"
    ),
    "https://f.azurewebsites.net/api/x?code=hunter2": "https://f.azurewebsites.net/api/x?code=***",
    "https://h/?api_key=hunter2&client_secret=hunter2&q=1": "https://h/?api_key=***&client_secret=***&q=1",
    "https://h/?Private-Token=hunter2": "https://h/?Private-Token=***",
    "https://h/?x-functions-key=hunter2": "https://h/?x-functions-key=***",
    r"https://h/?a=1\u0026key=hunter2": r"https://h/?a=1\u0026key=***",
    "https://h/?a=1&amp;token=hunter2&amp;b=2": "https://h/?a=1&amp;token=***&amp;b=2",
}
TEXTS = {
    "DefaultEndpointsProtocol=https;AccountName=n;AccountKey=hunter2+/c==;EndpointSuffix=core": (
        "DefaultEndpointsProtocol=https;AccountName=n;AccountKey=***;EndpointSuffix=core"
    ),
    "SharedAccessSignature=sv=2020&ss=b&sig=hunter2%3D;BlobEndpoint=https://x": (
        "SharedAccessSignature=***&ss=b&sig=***;BlobEndpoint=https://x"
    ),
    "Server=h;User Id=sa;Password=hunter2&more;Database=d": "Server=h;User Id=sa;Password=***;Database=d",
    "Driver=x;PWD={hunter2;x};Server=h": "Driver=x;PWD=***;Server=h",
    "Password = hunter2; Server=h": "Password = ***; Server=h",
    "jdbc:mysql://h/d?user=u&password=hunter2": "jdbc:mysql://h/d?user=u&password=***",
    "jdbc:sqlserver://h:1433;user=sa;password=hunter2;": "jdbc:sqlserver://h:1433;user=sa;password=***;",
    "jdbc:oracle:thin:scott/hunter2@h:1521/x": "jdbc:oracle:thin:@h:1521/x",
    "host=h password='hunter2 x' user=u": "host=h password='***' user=u",
    "PGPASSWORD=hunter2 train.py --api-key=hunter2 --epochs=3": "PGPASSWORD=*** train.py --api-key=*** --epochs=3",
    "fs.azure.account.key.acct.dfs.core.windows.net=hunter2": "fs.azure.account.key.acct.dfs.core.windows.net=***",
    "from https://u:hunter2@a/x and https://b/y?sig=hunter2, then ssh://git@c/z": (
        "from https://a/x and https://b/y?sig=***, then ssh://git@c/z"
    ),
    "[data](https://h/x?token=hunter2) is here": "[data](https://h/x?token=***) is here",
    "https://h?sig=hunter2,https://h2?sig=hunter2": "https://h?sig=***,https://h2?sig=***",
    "next=https%3A%2F%2Fh%3Ftoken%3Dhunter2&x=1": "next=https%3A%2F%2Fh%3Ftoken%3D***&x=1",
    "connect(password='hunter2', port=5)": "connect(password='***', port=5)",
    "run(f(password=hunter2))": "run(f(password=***))",
    "{'account_key': 'hunter2', 'depth': 3}": "{'account_key': '***', 'depth': 3}",
    r'{"u":"https:\/\/u:hunter2@h\/x?token=hunter2\u0026b=1"}': r'{"u":"https:\/\/h\/x?token=***\u0026b=1"}',
    "Authorization: Bearer hunter2": "Authorization: Bearer ***",
    'curl -H "Authorization: Basic hunter2==" https://h/x': 'curl -H "Authorization: Basic ***" https://h/x',
    "Proxy-Authorization: hunter2\nHost: h": "Proxy-Authorization: ***\nHost: h",
    "authorization=Basic hunter2": "authorization=Basic ***",
    '{"Authorization": "Bearer hunter2", "n": 1}': '{"Authorization": "***", "n": 1}',
    r"{\"Authorization\": \"Bearer hunter2\"}": r"{\"Authorization\": \"***\"}",
    "{'authorization': 'Bearer hunter2'}": "{'authorization': '***'}",
    "user: u\npassword: hunter2\nport: 5": "user: u\npassword: ***\nport: 5",
    'db_password: "hunter2 x"': 'db_password: "***"',
    "{user: u, api_key : hunter2, n: 1}": "{user: u, api_key : ***, n: 1}",
    "X-Api-Key: hunter2": "X-Api-Key: ***",
    "train.py --password hunter2 --epochs 3": "train.py --password *** --epochs 3",
    "train.py --token=hunter2": "train.py --token=***",
    "train.py --token 'hunter2 x'": "train.py --token '***'",
    "train.py --api-key hunter2": "train.py --api-key ***",
    "train.py --hf-token hunter2": "train.py --hf-token ***",
    '["train.py", "--token", "hunter2", "--epochs", "3"]': '["train.py", "--token", "***", "--epochs", "3"]',
    "GITHUB_TOKEN=hunter2 MYSQL_PWD=hunter2 train.py": "GITHUB_TOKEN=*** MYSQL_PWD=*** train.py",
    "hf_token: hunter2": "hf_token: ***",
}
# Headers without a blank after the colon.
COMPACT_HEADERS = {
    "Authorization:Bearer hunter2": "Authorization:Bearer ***",
    "authorization:Basic hunter2==": "authorization:Basic ***",
    "AUTHORIZATION:BEARER hunter2": "AUTHORIZATION:BEARER ***",
    "Authorization:hunter2": "Authorization:***",
    "Proxy-Authorization:Basic hunter2": "Proxy-Authorization:Basic ***",
    "proxy-authorization:hunter2": "proxy-authorization:***",
    "X-Api-Key:hunter2": "X-Api-Key:***",
    "X-API-KEY:hunter2": "X-API-KEY:***",
    "X-ApiKey:hunter2": "X-ApiKey:***",
    "X-Goog-Api-Key:hunter2": "X-Goog-Api-Key:***",
    "x-auth-token:hunter2": "x-auth-token:***",
    "X-Auth-Token:Bearer hunter2": "X-Auth-Token:Bearer ***",
    "X-Auth-Key: hunter2": "X-Auth-Key: ***",
    "x-vault-token:token-hunter2": "x-vault-token:***",
    "api-key:hunter2": "api-key:***",
    "Private-Token:hunter2": "Private-Token:***",
    "Ocp-Apim-Subscription-Key:hunter2": "Ocp-Apim-Subscription-Key:***",
    "curl -H 'X-Api-Key:hunter2' -H \"Authorization:Bearer hunter2\" https://h/x": (
        "curl -H 'X-Api-Key:***' -H \"Authorization:Bearer ***\" https://h/x"
    ),
    "Host:h\nX-Api-Key:hunter2\nAccept:*/*": "Host:h\nX-Api-Key:***\nAccept:*/*",
    r'{"raw": "Host:h\r\nX-Api-Key:hunter2\r\nAccept:*/*"}': r'{"raw": "Host:h\r\nX-Api-Key:***\r\nAccept:*/*"}',
    '["X-Api-Key:hunter2", "n:1"]': '["X-Api-Key:***", "n:1"]',
}
# A number gets the quotes of its name, so that JSON stays JSON.
JSON_FIELDS = {
    '{"password": 12345678}': '{"password": "***"}',
    '{"db_password":12345678, "x": 1}': '{"db_password":"***", "x": 1}',
    '{"a": [{"api_key": -1.5e+3}], "n": 1}': '{"a": [{"api_key": "***"}], "n": 1}',
    "{'password': 12345678, 'n': 1}": "{'password': '***', 'n': 1}",
    r"{\"password\": 12345678, \"n\": 1}": r"{\"password\": \"***\", \"n\": 1}",
    '{"pwd":"hunter2"}': '{"pwd":"***"}',
    "{'pwd': 'hunter2', 'n': 1}": "{'pwd': '***', 'n': 1}",
    r"{\"pwd\": \"hunter2\"}": r"{\"pwd\": \"***\"}",
    '{"PWD": "hunter2"}': '{"PWD": "***"}',
    '{"pwd": 12345678}': '{"pwd": "***"}',
    '{"passwd":"hunter2"}': '{"passwd":"***"}',
}
INNOCENT = [
    "",
    "0.001",
    "pad_token=<pad>",
    "max_tokens=5",
    "a;b",
    "user@example.com",
    "write to user@example.com; the key is: patience=3",
    "token=word, key=id, code=404, auth=none",
    "use_auth_token=True, secret=None",
    "PWD=/root HOME=/root",
    "AccountName=n;SharedAccessKeyName=root",
    "see https://a.com, mail me@b.com",
    "git@github.com:org/repo.git",
    "ssh://git@github.com/org/repo.git",
    "git+ssh://git@github.com/org/repo.git",
    "abfss://container@account.dfs.core.windows.net/path",
    "wasb://container@account.blob.core.windows.net/path",
    "wasbs://container@account.blob.core.windows.net/path",
    "http://host:8080/@scope/name",
    "http://[fe80::1]:80/a@b",
    "file:///C:/Users/me@corp/x.csv",
    "models:/churn@champion",
    "s3://bucket/day=2024-01-01/key=5/part.parquet?versionId=3&partNumber=1",
    "https://host/x?page=2&sort_key=name&monkey=1&pagetoken=3",
    '{"pad_token": "<pad>", "key": "value", "password": null, "n": 1}',
    '{"name": "password", "type": "string"}',
    "Authorization: Bearer <token>",
    "authorization=none",
    "def connect(password: str, secret: Optional[str] = None, api_key: SecretStr)",
    "pad_token: [PAD], eos_token: 2, max_token: 5",
    "tokenizer: bert, token: word, next_page_token: 3",
    "train.py --pad-token 0 --max-tokens 5 --key id --password --verbose",
    "a -- b --- c",
    "the token was sent and the password is known",
    "the password reset: a story about keys",
    "{",
    "token:max",
    "keys:3",
    "key:value",
    "monkey:1",
    "author:ada",
    "pad-token:0",
    "train:3,deny:key,n:1",
    r"C:\path",
    "12:30",
    "s3://bucket/key:1",
    "s3://bucket/x-api-key:1",
    "http://authorization:8080/x",
    "rbac.authorization:v1",
    "prefix-x-api-key:1",
    "x-next-token:3,x-max-token:5,x-idempotency-key:7,x-key:1",
    "authorization:none",
    "Authorization:Bearer <token>",
    "X-Api-Key:string",
    "{'token': 5, 'monkey': 1, 'author': 'ada', 'keys': 3, 'pad_token': 0}",
    '{"password_length":8,"max_token":5,"n_passwords":2,"password":true}',
    '{"PWD": "/root", "OLDPWD": "/", "HOME": "/root"}',
    r'{"PWD": "C:\\Users", "cmd": "pwd", "pwd": null}',
    '["pwd", "ls"]',
]


@pytest.mark.parametrize(
    ("text", "clean"), [*URLS.items(), *TEXTS.items(), *COMPACT_HEADERS.items(), *JSON_FIELDS.items()]
)
def test_credentials_go_and_the_rest_stays(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(("url", "clean"), URLS.items())
def test_one_url_is_cleaned_as_any_text(url: str, clean: str) -> None:
    assert redact_url(url) == clean


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_text_is_left_alone(text: str) -> None:
    assert redact(text) == text
    assert redact_url(text) == text


@pytest.mark.parametrize("text", [*URLS, *TEXTS, *COMPACT_HEADERS, *JSON_FIELDS, *INNOCENT])
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    ("url", "clean"),
    {
        "user:hunter2@host/path": "host/path",
        "user:hunter2@host:path.git": "host:path.git",
        "https://user:hun ter2@host/x": "https://host/x",
        "mailto:user@example.com": "mailto:user@example.com",
        r"C:\Users\me@corp\x.csv": r"C:\Users\me@corp\x.csv",
    }.items(),
)
def test_a_url_may_lack_its_scheme_or_hold_blanks(url: str, clean: str) -> None:
    assert redact_url(url) == clean


@pytest.mark.parametrize("layers", [1, 2])
def test_json_text_stays_json(layers: int) -> None:
    value = {"uri": "https://u:hunter2@h/?sig=hunter2", "password": 'hunter2"x', "pwd": 1.5, "dsn": "password=", "n": 1}
    text: object = value
    for _ in range(layers):
        text = json.dumps(text)
    assert isinstance(text, str)
    cleaned: object = redact(text)
    for _ in range(layers):
        assert isinstance(cleaned, str)
        cleaned = json.loads(cleaned)
    assert cleaned == {"uri": "https://h/?sig=***", "password": "***", "pwd": "***", "dsn": "password=", "n": 1}


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "api-key", "X-Amz-Signature", "token", "secret", "pwd"])
def test_names_of_credentials_are_known(name: str) -> None:
    assert names_credential(name)


@pytest.mark.parametrize("name", ["pad_token", "keys", "path", "split", "delta_table_id", "tokens", "password_policy"])
def test_other_names_are_no_credentials(name: str) -> None:
    assert not names_credential(name)


# Each makes a pattern start over again and again, or scan far for an end that does not come. With one pattern of
# quadratic cost a single one of these takes hours; all of them together take seconds.
HOSTILE = {
    "colons": ":" * 1_000_000 + "@",
    "schemes": "https://" * 125_000 + "@",
    "userinfos": "://aa:" * 160_000 + "@",
    "ats": "://" + "@" * 1_000_000,
    "letters": "a" * 1_000_000 + "=key",
    "separators": "?&;#" * 250_000 + "=key",
    "parameters": ";key=" * 200_000,
    "names": "secret" * 160_000 + "=",
    "long name": "account.key." + "a.b" * 330_000 + "=",
    "quotes": 'password="' * 100_000,
    "single quotes": "password='" * 100_000,
    "escaped quotes": 'password=\\"' * 90_000,
    "json quotes": '"password":"' * 80_000,
    "nested json quotes": '\\"password\\":\\"' * 65_000,
    "braces": ";pwd={" * 160_000,
    "brackets": "password=" + ")" * 1_000_000,
    "commas": "password=" + ",a" * 500_000,
    "backslashes": "password=" + "\\" * 1_000_000,
    "oracle": "jdbc:oracle:thin:a/" * 50_000 + "@",
    "headers": "authorization: bearer " * 45_000,
    "json headers": '"authorization": "' * 55_000,
    "blanks": "password" + " " * 1_000_000,
    "yaml": "password: " * 100_000,
    "yaml quotes": 'password: "' * 90_000,
    "tokens": "a_token" * 140_000,
    "tokens of text": "pad_token: " * 90_000,
    "dashes": "-" * 1_000_000,
    "options": "--password " * 90_000,
    "short options": "--a" * 330_000,
    "option quotes": '--password "' * 80_000,
    "arguments": '"--token", "' * 80_000,
    "compact headers": "authorization:" * 70_000,
    "compact schemes": "authorization:bearer " * 45_000,
    "compact names": "x-api-key:" * 100_000,
    "compact quotes": "x-api-key:\"' " * 75_000,
    "compact blanks": "x-api-key:        " * 55_000,
    "parts of a header": " x-a-a-a-a-token" * 60_000 + "y:",
    "long parts": f" x-{'a' * 30}" * 30_000 + "y:",
    "only colons": ":" * 1_000_000,
    "json names": '"password": ' * 80_000,
    "json digits": '"password": ' + "1" * 1_000_000,
    "json dots": '"password": 1' + "." * 1_000_000,
    "pwd": "'pwd':\"" * 140_000,
    "directories": '"PWD":"/' * 125_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_megabyte_is_read_in_one_go(text: str) -> None:
    assert SECRET not in redact(f"{text} password={SECRET}")


@pytest.mark.parametrize(
    "key",
    [
        *("password", "db_password", "AWS_SECRET_ACCESS_KEY", "model.api-key", "hf.access_token"),
        *("GITHUB_TOKEN", "gitlab_token", "hf_token", "huggingface_token", "slack_token", "databricks_token"),
        *("mlflow_tracking_token", "datahub_gms_token", "openai_token", "launchpad_token", "githubToken", "dbPassword"),
        *("PGPASSWORD", "MYSQL_PWD", "pwd", "passwords", "python_passwords", "credentials", "aws_credentials", "jwt"),
        *("secrets", "api_keys", "db_pass"),
    ],
)
def test_a_key_that_can_only_name_a_credential_is_known(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        *("token", "pad_token", "max_tokens", "key", "sort_key", "n_passwords", "bypassword"),
        *("eos_token", "bos_token", "unk_token", "sep_token", "cls_token", "mask_token", "PAD_TOKEN", "padToken"),
        *("tokenizer.pad_token", "additional_special_token", "decoder_start_token", "image_token", "loss_per_token"),
        *("num_tokens", "token_type", "special_token", "max_token", "next_page_token", "token_id", "tokenizer"),
        *("pass_rate", "bypass", "n_pass", "forward_pass", "pass", "num_secrets", "password_policy"),
    ],
)
def test_a_key_that_names_something_else_in_machine_learning_is_not(key: str) -> None:
    assert not is_secret_key(key)
