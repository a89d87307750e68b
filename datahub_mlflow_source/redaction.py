"""Credentials out of text that people logged: MLflow keeps them in clear.

Seen on real servers: `ftp://u:pw@h/k` and `https://host/b.csv?tok=1` as dataset sources, git remotes with a
token in them, connection strings as params. What is found is replaced by `***`; userinfo in front of a host
goes altogether. Everything else stays as it was, so this may run over every tag and param.

Linear in the length of the text, also on hostile input: no pattern can scan the same stretch again and again,
because every repetition either ends where the next attempt starts or has an upper bound.
"""

from __future__ import annotations

import re
from functools import lru_cache

HIDDEN = "***"

# Says nothing about a person: the account of ssh, and containers and buckets that stand before an @.
_USER_IS_NO_SECRET = frozenset({"ssh", "git+ssh", "ssh+git", "svn+ssh", "wasb", "wasbs", "abfs", "abfss", "r2"})

# `<word>_token` is a credential (github_token, hf_token), unless the word says that it is a piece of text, a place
# in a listing, or a number: pad_token, next_token, max_token. A bare `token` is often of a tokenizer.
_NO_CREDENTIALS = (
    "additional assistant audio avg begin blank boi bos bot byte char class cls completion context count current"
    " decoder distillation empty encoder end eod eoi eom eos eot extra fim first forced generated image img input k"
    " lang language last latent mask masked max mean middle min n new next null num oov output pad padding page patch"
    " per placeholder prefix prev previous prompt query register role sep separator sot space special start stop suffix"
    " summary system t target text tgt think thinking time tokenizer tool total trigger unk unknown use video vision"
    " vocab word"
)
_OF_TEXT = "".join(rf"(?<!(?<![a-z]){word}[-_.]token)" for word in _NO_CREDENTIALS.split())

# Names that mean a credential wherever `name=`, `name: ` or `"name":` stands, whatever comes before (DB_PASSWORD=).
_ALWAYS = (
    r"(?:passw(?:or)?d|passphrase|secret(?:[-_.]?(?:access[-_.]?)?key)?|access[-_.]?key(?:[-_.]?id)?"
    r"|(?:api|private|functions|subscription)[-_.]?key|account[-_.]?key(?:\.[\w.-]{1,100})?"
    r"|shared[-_.]?access[-_.]?(?:key|signature)"
    r"|(?:access|api|auth|bearer|private|refresh|sas|security|session)[-_.]?token"
    rf"|token(?<=[a-z\d][-_.]token){_OF_TEXT}|pwd(?<=[a-z\d][-_.]pwd))"
)
# Names that mean one only as a parameter: after `?`, `&`, `#` or `;`. A bare `token=` is often of a tokenizer.
_AS_PARAMETER = (
    r"(?:tok(?:en)?|id[-_.]?token|key|pass|pwd|sas|sig(?:nature)?|auth(?:orization)?|code(?!=\d{1,19}(?![\w.~-]))|jwt|credentials?"
    r"|x-(?:amz|goog)-(?:signature|credential))"
)

# Where a value ends. A comma, bracket or backslash belongs to it, unless it clearly begins something else.
_INNER = (
    r",(?!\s|[A-Za-z][\w.+-]{0,30}[:=])"
    r"|[)\]}](?![)\]}]{0,8}(?:[\s\"',;&<>]|$))"
    r"|\\(?![\"'nrtu\\/])"
)
_QUERY_VALUE = rf"(?:[^\s\"'<>&;#\\,)\]}}]|{_INNER})+"
_CONNECTION_VALUE = rf"(?:\{{[^{{}}]*\}}|(?:[^\s\"'<>&;\\,)\]}}]|&(?!amp;)|{_INNER})+)"
# In quotes after `=`: in JSON text the quote may be the end of the string around, so what follows is looked at.
_QUOTED_VALUE = (
    r"\"(?![\s,:)\]}])(?:[^\"\\]|\\.)*\"|'(?![\s,:)\]}])(?:[^'\\]|\\.)*'"
    r"|\\\"(?![\s,:)\]}])(?:[^\"\\]|\\(?!\"))*\\\""
)
_JSON_VALUE = (
    r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
    r"|\\\"(?:[^\"\\]|\\\\(?:\\.|[^\\]))*\\\""  # JSON text in a JSON string
    r"|-?[0-9](?:[\w.+-]*\w)?"  # a number
)
_SWITCH = r"(?!(?:true|false|none|null)\b)"  # use_auth_token=True
_TYPE = r"(?!(?:bool|false|int|none|null|optional|required|secretstr|str|string|true)(?:[^\w-]|\Z))"  # password: str
_SCHEME_OF_HEADER = r"(?:aws4-hmac-sha256|basic|bearer|digest|negotiate|token)"  # Authorization: Bearer …
_BARE_OR_QUOTED = rf"({_QUOTED_VALUE}|{_CONNECTION_VALUE})"

# "PWD": "/root" is where a shell was, not a password.
_WORKING_DIRECTORY = r"(?<=(?-i:PWD))\\?[\"'][ ]?:[ ]?\\?[\"'](?:[/~]|[a-z]:[/\\])"

# One group per form, around the value that is to go.
_NAMED = (
    rf"{_ALWAYS}(?:(?:[ ]?=[ ]?|%3D){_SWITCH}({_QUOTED_VALUE}|{_QUERY_VALUE})"
    rf"|\\?[\"'][ ]?:[ ]?({_JSON_VALUE})"
    rf"|[ ]?:[ ]{{1,8}}{_TYPE}{_BARE_OR_QUOTED})"
)
_HEADER = (
    rf"authorization(?:\\?[\"'][ ]?:[ ]?({_JSON_VALUE})"
    rf"|[ ]?[:=][ ]{{0,8}}{_SCHEME_OF_HEADER}[ ]{{1,8}}{_BARE_OR_QUOTED}"
    rf"|(?:[ ]?=[ ]?|[ ]?:[ ]{{1,8}})(?!{_SCHEME_OF_HEADER}\b){_TYPE}{_BARE_OR_QUOTED})"
)
_PWD = rf"pwd(?<=[\"']pwd)(?!{_WORKING_DIRECTORY})\\?[\"'][ ]?:[ ]?({_JSON_VALUE})"
_PARAMETER = re.compile(
    rf";[ ]?(?:{_ALWAYS}|{_AS_PARAMETER})[ ]?=[ ]?{_BARE_OR_QUOTED}"
    rf"|(?:[?#]|&|%3F|%26|\\u0026)(?:{_ALWAYS}|{_AS_PARAMETER})(?:=|%3D)({_QUERY_VALUE})"
    rf"|(?=[abfprst])(?:{_NAMED}|{_HEADER}|{_PWD})",
    re.IGNORECASE | re.DOTALL,
)
_HINTS = ("pass", "pwd", "secret", "tok", "key", "sig", "auth", "code", "cred", "jwt", "sas")
# Headers that hold a credential, also without a blank after the colon: `X-Api-Key:…`. Nothing stands before the name,
# as in a path or in `rbac.authorization:`. All names end in y or n, which `redact` relies on.
_COMPACT_HEADER = re.compile(
    r"(?=[aopx])(?:(?<![\w./-])|(?<=\\[nrt]))"
    r"(?:(?:proxy-)?authorization|(?:ocp-apim-subscription|api)-key|private-token|x-(?:[a-z\d]{1,20}-){0,4}"
    rf"(?:(?:access|api|auth|functions|private|secret|subscription)-?key|token{_OF_TEXT}))"
    rf":[ ]{{0,8}}(?:{_SCHEME_OF_HEADER}[ ]{{1,8}}|(?!{_SCHEME_OF_HEADER}(?:[^\w-]|\Z)))"
    rf"{_TYPE}{_BARE_OR_QUOTED}",
    re.IGNORECASE | re.DOTALL,
)
# `--password x`, `--password=x`, and "'--password', 'x'" of a list of arguments.
_OPTION = re.compile(
    rf"--([a-z][\w.-]{{0,60}})(?:=|[ ]{{1,8}}(?!-)|[\"'],[ ]?(?=[\"'])){_SWITCH}{_BARE_OR_QUOTED}",
    re.IGNORECASE | re.DOTALL,
)
_NO_COUNT = "".join(rf"(?<!(?<![a-z]){word}[-_.])" for word in ("n", "num", "max", "min", "total"))
_SECRET_KEY = re.compile(
    rf"(?:^|[^a-z])(?:(?:db|pg)?{_ALWAYS}|{_NO_COUNT}(?:passwords|secrets|api[-_.]?keys|pwd|credentials?|jwt)"
    r"|(?:admin|database|db|ldap|mail|pg|proxy|root|smtp|user)[-_.]pass)\Z",
    re.IGNORECASE,
)
_INSIDE_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CREDENTIAL_NAME = re.compile(rf"(?:.*{_ALWAYS}|{_AS_PARAMETER})", re.IGNORECASE | re.DOTALL)

# `://`, or `:\/\/` as some JSON writers have it; then all up to the last @ before the path. The second form is
# for an unencoded `/` in a password (Hadoop's s3n://KEY:SE/CRET@bucket): a user, and no port, after the colon.
_USERINFO = re.compile(
    r":(?://|\\/\\/)"
    r"((?:[^\s/?#\"'<>\\]|\\(?![/\"'nrt]))*@"
    r"|[^\s/?#\"'<>\\:@\[]{2,200}:(?!\d+(?:[/?#\s\"'<>\\]|$))[^\s\"'<>\\@]{0,200}@)"
)
_QUOTED_NAME = re.compile(r"(\\?[\"'])[ ]?:[ ]?\Z")
_SCHEME = re.compile(r"[A-Za-z0-9+.-]*$")
_ORACLE = re.compile(r"(jdbc:oracle:\w{1,8}:)[^\s/@\"']{1,128}/[^\s@\"']{1,128}@", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without the credentials in its URLs, connection strings and JSON fields.

    Cheap where there is nothing to find: two or three `in` tests for an ordinary param, some more for a URL.
    """
    if ":" not in text and "=" not in text and ("-" not in text or "--" not in text):
        return text
    if "@" in text:
        text = _USERINFO.sub(_without_userinfo, text)
        text = _ORACLE.sub(r"\1@", text)
    # One character is found faster than two. An option without a blank has a `=` or quotes.
    assigns = (
        ("=" in text or '"' in text or "'" in text)
        or ("%" in text and "%3" in text)
        or (" " in text and (": " in text or "--" in text))
    )
    lowered = text.lower()
    if (assigns or "y:" in lowered or "n:" in lowered) and _may_name_a_credential(lowered):
        text = _COMPACT_HEADER.sub(_hidden, text) if "y:" in lowered or "n:" in lowered else text
        text = _PARAMETER.sub(_hidden, text)
        text = _OPTION.sub(_hidden_option, text) if "--" in text else text
    return text


def redact_url(url: str) -> str:
    """As `redact`, for text that is one URL: also sees blanks in a password, and `user:password@host/path`."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        scheme, separator, rest = "", "", url
    userinfo, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    secret = ":" in userinfo if not scheme else scheme.lower() not in _USER_IS_NO_SECRET or ":" in userinfo
    if at and secret and "\\" not in userinfo and not userinfo.startswith(("mailto:", "jdbc:")):
        rest = rest[len(userinfo) + 1 :]
    return redact(f"{scheme}{separator}{rest}")


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Whether a param or tag of this name is a credential whatever its value: `db_password`, `AWS_SECRET_ACCESS_KEY`.

    Not `token` or `key` alone, which params of tokenizers and sorts are called, nor `pad_token`.
    """
    return bool(_SECRET_KEY.search(_INSIDE_CAMEL_CASE.sub("_", key[-100:])))


def names_credential(name: str) -> bool:
    """Whether a field of this name holds a credential: `password`, `api_key`, `X-Amz-Signature`, `token`, …"""
    return bool(_CREDENTIAL_NAME.fullmatch(name[-200:])) or is_secret_key(name)


def _may_name_a_credential(lowered: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110 - half as long as `any`
        if hint in lowered:
            return True
    return False


def _without_userinfo(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 8) : match.start()]
    scheme = _SCHEME.search(before)
    if scheme and scheme[0].lower() in _USER_IS_NO_SECRET and ":" not in match[1]:
        return match[0]
    return match[0].removesuffix(match[1])


def _hidden_option(match: re.Match[str]) -> str:
    return _hidden(match) if match[1].lower() == "token" or is_secret_key(match[1]) else match[0]


def _hidden(match: re.Match[str]) -> str:
    value = match[match.lastindex or 0]
    before = match[0].removesuffix(value)
    quote = re.match(r"\\?[\"']", value) or _QUOTED_NAME.search(before)  # a number gets the quotes of its name
    mark = quote[quote.lastindex or 0] if quote else ""
    return f"{before}{mark}{HIDDEN}{mark}"
