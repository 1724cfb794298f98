"""What of a configuration is shown: nothing that is named like a secret or looks like one, wherever it stands."""

import json
from typing import Any

import pytest

from commitcast.gateway.hub.redaction import HIDDEN, Redactor
from growth import is_linear

SECRET = "hunter-2-s3cr3t"
REDACTOR = Redactor()


@pytest.mark.parametrize(
    "configuration",
    [
        {"api_key": SECRET},
        {"outer": [{"inner": {"AUTH": SECRET}}]},
        {"argv": ["claude", "--api-key", SECRET, "-p"]},
        {"argv": ["claude", f"--api-key={SECRET}"]},
        {"argv": ["claude", f"-token={SECRET}"]},
        {"argv": ["env", f"OPENAI_API_KEY={SECRET}", "claude"]},
        {"argv": ["curl", "-u", f"bob:{SECRET}"]},
        {"argv": ["curl", "--user", f"bob:{SECRET}"]},
        {"argv": ["curl", "-H", f"Authorization: Bearer {SECRET}"]},
        {"argv": ["curl", "-H", f"X-Api-Key:{SECRET}"]},
        {"argv": ["curl", "-H", f"Authorization: {SECRET}"]},
        {"argv": ["sh", "-c", f"PASSWORD='{SECRET}' run && curl -H 'Authorization: Basic {SECRET}' x"]},
        {"argv": ["--token", 4711], "shown": True},
        {"argv": ["--token", [SECRET]]},
        {"headers": [["Authorization", f"Bearer {SECRET}"]]},
        {"headers": [["X-Api-Key", SECRET], ["Accept", "text/html"]]},
        {"headers": ["Authorization", f"Bearer {SECRET}", "Accept", "text/html"]},
        {"headers": [{"name": "Authorization", "value": SECRET}]},
        {"headers": [{"key": "Cookie", "value": SECRET, "enabled": True}]},
        {"variables": [{"Name": "DB_PASSWORD", "Value": SECRET}]},
        {"scheme": f"Bearer {SECRET}"},
        {"scheme": f"basic {SECRET}"},
        {"url": f"https://user:{SECRET}@host/"},
        {"url": f"https://{SECRET}@host:80/path"},
        {"url": f"postgresql://u:{SECRET}@host/db?sslmode=require"},
        {"url": f"https://host/path?a=1&access_token={SECRET}&b=2"},
        {"url": f"https://host/path#token={SECRET}"},
        {"urls": [f"see wss://a:{SECRET}@host and http://b:{SECRET}@host"]},
        {"connection": f"host=db;user=x;password={SECRET}"},
        {"json": json.dumps({"password": SECRET, "user": "x"})},
        {"nested": f"x=token={SECRET}"},
        {"yaml": f"user: x\npassword: {SECRET}\n"},
        {"env": {"ANTHROPIC_API_KEY": SECRET, "githubToken": SECRET, "DB_PASSWORD_2": SECRET}},
        *(
            {name: SECRET}
            for name in ("PGPASSWORD", "dbpassword", "MYSQL_PWD", "DBPWD", "PGPASS", "client_secret_value")
        ),
        *(
            {name: SECRET}
            for name in ("NGROK_AUTHTOKEN", "authtoken", "accesstoken", "GHTOKEN", "secrets", "passwords")
        ),
        *({name: SECRET} for name in ("api_keys", "OPENAI_API_KEYS", "auth_tokens", "apiTokens", "SECRET_KEY_BASE")),
        *({name: SECRET} for name in ("password_hash", "tls_key", "ssl_key", "OPENAI_KEY", "stripeKey", "GITHUB_PAT")),
        *(
            {name: SECRET}
            for name in (
                "jwt",
                "auth_header",
                "authentication",
                "passcode",
                "API_KEY_PROD",
                "SECRETKEYBASE",
                "AWSSECRETACCESSKEY",
                "envs",
            )
        ),
        {"argv": ["docker", "run", "-e", f"PGPASSWORD={SECRET}"]},
        {"argv": ["ngrok", "--authtoken", SECRET, "--accesstoken", SECRET]},
        {"X-Api-Key": SECRET, "apiKey": SECRET, "APIKEY": SECRET, "api key": SECRET, "clientSecret": SECRET},
    ],
    ids=json.dumps,
)
def test_a_secret_that_has_a_name_is_hidden(configuration: dict[str, Any]) -> None:
    shown = json.dumps(REDACTOR.redact(configuration))

    assert SECRET not in shown and "4711" not in shown


@pytest.mark.parametrize(
    ("prefix", "rest"),
    [
        ("sk-", "ant-api03-" + "x" * 20),
        ("sk-", "proj-" + "x" * 20),
        ("sk_", "live_" + "x" * 20),
        ("ghp_", "x" * 36),
        ("github_pat_", "x" * 30),
        ("xoxb-", "1" * 12 + "-" + "x" * 12),
        ("AKIA", "X" * 16),
        ("eyJ", "hbGciOiJI.eyJzdWIiOiIx.dozjgNryP4"),
        ("jwt-eyJ", "hbGciOiJI.eyJzdWIiOiIx.dozjgNryP4"),
        ("x-eyJ-eyJ", "hbGciOiJI.eyJzdWIiOiIx.dozjgNryP4"),
        ("-----BEGIN ", "PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_without_a_name(prefix: str, rest: str) -> None:
    assert REDACTOR.redact({"note": f"use {prefix}{rest}"})["note"] == f"use {HIDDEN}"


@pytest.mark.parametrize(
    "configuration",
    [
        {"argv": ["claude", "-p", "--output-format", "stream-json", "--verbose"], "model": "claude-opus-4-1"},
        {"url": "https://host:8080/path?page=2&sort=name", "ratio": 0.5, "flags": [True, None, 1]},
        {"headers": [["Accept", "text/html"], {"name": "Accept", "value": "text/html"}]},
        {"folder": "/srv/repository", "session_id": "0190abcd-1234-7abc-8def-0123456789ab"},
        {"note": "Basic understanding of token economics: see https://example.com/sk-learn"},
        {"times": ["12:30", "a: b", "x=1"], "mail": "bob@example.com"},
        {"max_tokens": 4_096, "maxTokens": 4_096, "token_count": 1, "author": "ann", "environment": "production"},
        {"argv": ["claude", "--max-tokens", "4096", "--author=ann", "--environment", "staging", "--tokenizer", "fast"]},
        {"pad_token": "<pad>", "eos_token": "</s>", "next_page_token": "p2", "first_pass": 1, "eosToken": "</s>"},
        {
            "input_tokens": 7,
            "tokens": 8,
            "max_new_tokens": 9,
            "monkey": "m",
            "turkey": 1,
            "passenger": "p",
            "bypass": True,
        },
        {"secretary": "ann", "trespass": 0, "key": "value", "sort_key": "id", "cache-key": "c", "compat": 1},
        {"argv": ["train", "--pad-token", "<pad>", "--public-key", "k", "PAD_TOKEN=<pad>"], "default": 1, "new": 2},
        {"authors": ["ann"], "keyboard": "qwerty", "primary_key": "id", "passes": 3, "compass": "north", "envelope": 1},
    ],
    ids=json.dumps,
)
def test_what_is_no_secret_is_shown_as_it_is(configuration: dict[str, Any]) -> None:
    assert REDACTOR.redact(configuration) == configuration


def test_a_host_adds_its_own_names() -> None:
    redactor = Redactor(["session id", "x_internal"])

    shown = redactor.redact(
        {"sessionId": SECRET, "argv": ["run", "--last-session-id", SECRET, f"X-Internal: {SECRET}"]}
    )

    assert shown == {"argv": ["run", "--last-session-id", HIDDEN, f"X-Internal: {HIDDEN}"]}
    assert REDACTOR.redact({"sessionId": SECRET}) == {"sessionId": SECRET}


def test_a_host_excepts_names() -> None:
    redactor = Redactor(["own pass"], ["deploy key", "x pass", "own-pass"])
    shown = {"deployKey": "d", "argv": ["--old-deploy-key", "d", "DEPLOY_KEY=d"], "x_pass": 1, "deploy_key_hash": "d"}

    assert redactor.redact(shown) == shown
    assert redactor.redact({"own_pass": SECRET, "pass": SECRET, "api_key": SECRET}) == {}
    assert REDACTOR.redact({"deployKey": SECRET, "x_pass": SECRET}) == {}


def test_the_place_of_what_is_hidden_in_a_list_stays() -> None:
    assert REDACTOR.redact(["--api-key", "x", "--verbose"]) == ["--api-key", HIDDEN, "--verbose"]
    assert REDACTOR.redact(["--no-auth", "--verbose", "x"]) == ["--no-auth", "--verbose", "x"]
    assert REDACTOR.redact(["https://a:b@c/d?token=e"]) == [f"https://{HIDDEN}@c/d?token={HIDDEN}"]


PARTS = (
    *("a", " ", "=", ":", "'", "-", ".", "@", "/", "://", "\n", "a" * 20, "sk-", "ghp_", "AKIA", "eyJ", "eyJabcdefgh."),
    *(
        "key=",
        "key: ",
        "token",
        "password=",
        "_base",
        "secretbase=",
        "bearer ",
        "-----BEGIN ",
        "PRIVATE KEY",
        "-----BEGIN PRIVATE KEY-----",
        "-----END ",
    ),
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("part", PARTS)
def test_a_long_text_takes_time_in_proportion(part: str) -> None:
    for other in PARTS:
        assert is_linear(REDACTOR.redact, part + other, 30_000 // len(part + other)), other
        assert is_linear(lambda text: REDACTOR.redact(part + text), other, 30_000 // len(other)), other
