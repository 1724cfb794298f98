"""JSON web tokens: what an issuer signed is granted, and nothing that anybody else made up."""

import base64
import hashlib
import hmac
import json
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import MAX_TOKEN_BYTES, Capability, Grant, Operation
from commitcast.gateway.server.access.jwt import MAX_CAPABILITIES, JwtAlgorithm, JwtVerifier
from commitcast.gateway.server.errors import TokenError
from commitcast.persistence.errors import InvalidValueError

SECRET: Final = "a-shared-secret-of-thirty-six-letters"
NOW: Final = 1_800_000_000.0
CAPS: Final = [{"agent": "org1:*", "ops": ["read", "send"]}]
CLAIMS: Final[dict[str, Any]] = {"sub": "ann", "exp": NOW + 60, "caps": CAPS}
GRANTED: Final = (Capability("org1:*", frozenset({Operation.READ, Operation.SEND})),)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@pytest.fixture(autouse=True)
def no_log_record_holds_a_secret(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text
    assert "eyJ" not in caplog.text  # how every token begins: `{"` in base64


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public(key: PrivateKey, encoding: Encoding = Encoding.PEM) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def private(key: PrivateKey, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def verifier(*, leeway_s: float = 0.0, audience: str | None = None, issuer: str | None = None) -> JwtVerifier:
    return JwtVerifier(
        SECRET, algorithm="HS256", audience=audience, issuer=issuer, leeway_s=leeway_s, clock=lambda: NOW
    )


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(payload: Any, header: Any = {"alg": "HS256"}, secret: str | bytes = SECRET) -> str:  # noqa: B006
    """Sign anything at all, as a library never would."""
    signed = f"{part(header)}.{part(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def without(claim: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name != claim}


def refusal_of(token: str, by: JwtVerifier | None = None) -> TokenError:
    """Return why a token is refused, having looked for secrets in everything that a log could show of it."""
    with pytest.raises(TokenError) as refused:
        (by or verifier()).verify(token)
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value.args)
    assert SECRET not in shown
    assert not any(len(piece) > 8 and piece in shown for piece in (token, *token.split(".")))
    assert str(refused.value).isprintable() and 10 < len(str(refused.value)) < 300
    return refused.value


class TestAnAcceptedToken:
    def test_grants_its_capabilities_to_its_subject_until_it_expires(self) -> None:
        grant = verifier().verify(jwt.encode(CLAIMS, SECRET, "HS256"))

        assert grant == Grant("ann", GRANTED, expires_at=NOW + 60)

    def test_may_be_signed_with_rsa(self, rsa_key: rsa.RSAPrivateKey) -> None:
        rs256 = JwtVerifier(public(rsa_key), algorithm="RS256", clock=lambda: NOW)

        assert rs256.verify(jwt.encode(CLAIMS, rsa_key, "RS256")).capabilities == GRANTED

    def test_may_be_signed_with_ed25519(self, ed_key: ed25519.Ed25519PrivateKey) -> None:
        eddsa = JwtVerifier(public(ed_key).decode(), algorithm="EdDSA", clock=lambda: NOW)

        assert eddsa.verify(jwt.encode(CLAIMS, ed_key, "EdDSA")).capabilities == GRANTED

    def test_may_have_other_claims_and_headers(self) -> None:
        claims = CLAIMS | {"iat": NOW + 1e6, "jti": 7, "iss": "anybody", "scope": {"deep": [None]}}

        token = jwt.encode(claims, SECRET, "HS256", headers={"kid": "1", "jku": "http://127.0.0.1:1/keys"})

        assert verifier(issuer="anybody").verify(token).subject == "ann"
        assert verifier().verify(token).subject == "ann"

    def test_may_allow_nothing(self) -> None:
        assert verifier().verify(by_hand(CLAIMS | {"caps": []})).capabilities == ()

    def test_may_have_as_many_capabilities_as_the_limit(self) -> None:
        token = by_hand(CLAIMS | {"caps": CAPS * MAX_CAPABILITIES})

        assert verifier().verify(token).capabilities == GRANTED * MAX_CAPABILITIES

    def test_is_read_by_the_clock_of_the_machine_unless_another_is_given(self) -> None:
        real = JwtVerifier(SECRET, algorithm="HS256")

        assert real.verify(by_hand(CLAIMS | {"exp": time.time() + 60})).subject == "ann"
        assert refusal_of(by_hand(CLAIMS | {"exp": time.time() - 60}), real).error_code is ErrorCode.TOKEN_EXPIRED


class TestTime:
    @pytest.mark.parametrize("late", [0, 0.5, 60, NOW])
    def test_from_its_exp_on_a_token_has_expired(self, late: float) -> None:
        error = refusal_of(by_hand(CLAIMS | {"exp": NOW - late}))

        assert error.error_code is ErrorCode.TOKEN_EXPIRED
        assert str(error) == "the token has expired: get a new one"

    def test_just_before_its_exp_a_token_holds(self) -> None:
        assert verifier().verify(by_hand(CLAIMS | {"exp": NOW + 0.25})).expires_at == NOW + 0.25

    def test_before_its_nbf_a_token_does_not_hold_yet(self) -> None:
        assert "not valid yet" in str(refusal_of(by_hand(CLAIMS | {"nbf": NOW + 1})))
        assert verifier().verify(by_hand(CLAIMS | {"nbf": NOW})).subject == "ann"

    def test_the_leeway_counts_on_both_sides(self) -> None:
        lenient = verifier(leeway_s=10)

        grant = lenient.verify(by_hand(CLAIMS | {"exp": NOW - 9, "nbf": NOW + 10}))

        assert grant.expires_at == NOW + 1 and not grant.has_expired(NOW)  # a connection lives as long as its token
        assert refusal_of(by_hand(CLAIMS | {"exp": NOW - 10}), lenient).error_code is ErrorCode.TOKEN_EXPIRED
        assert "not valid yet" in str(refusal_of(by_hand(CLAIMS | {"nbf": NOW + 11}), lenient))

    def test_a_token_for_another_server_is_refused_for_good_also_when_it_has_expired(self) -> None:
        error = refusal_of(by_hand(CLAIMS | {"exp": 1, "aud": "other"}), verifier(audience="here"))

        assert error.error_code is ErrorCode.UNAUTHENTICATED


class TestPlace:
    @pytest.mark.parametrize("aud", ["here", ["here"], ["other", "here"]])
    def test_a_token_that_names_the_audience_is_accepted(self, aud: Any) -> None:
        assert verifier(audience="here").verify(by_hand(CLAIMS | {"aud": aud})).subject == "ann"

    @pytest.mark.parametrize("aud", [None, "", [], "her", "here2", "HERE", ["other"], ["h", "e"]])
    def test_a_token_that_does_not_is_refused(self, aud: Any) -> None:
        assert "`aud`" in str(refusal_of(by_hand(CLAIMS | {"aud": aud}), verifier(audience="here")))
        assert "`aud`" in str(refusal_of(by_hand(CLAIMS), verifier(audience="here")))

    @pytest.mark.parametrize("aud", ["here", "", ["here"]])
    def test_a_token_for_somebody_is_refused_where_no_audience_is_set(self, aud: Any) -> None:
        assert "`aud`" in str(refusal_of(by_hand(CLAIMS | {"aud": aud})))

    @pytest.mark.parametrize("claims", [{}, {"iss": None}, {"iss": ""}, {"iss": "we"}, {"iss": "us2"}])
    def test_a_token_of_another_issuer_is_refused(self, claims: dict[str, Any]) -> None:
        assert "`iss`" in str(refusal_of(by_hand(CLAIMS | claims), verifier(issuer="us")))
        assert verifier(issuer="us").verify(by_hand(CLAIMS | {"iss": "us"})).subject == "ann"


class TestASignature:
    def test_of_another_secret_is_refused(self) -> None:
        token = jwt.encode(CLAIMS, SECRET[::-1], "HS256")

        assert str(refusal_of(token)) == "the signature of the token is wrong: ask its issuer for a new one"

    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, [], {}, 0, ["HS256"], "hs256", "HS512"])
    def test_of_an_algorithm_that_the_token_chose_is_refused(self, alg: Any) -> None:
        for token in (by_hand(CLAIMS, {"alg": alg}), by_hand(CLAIMS, {"alg": alg}).rpartition(".")[0] + "."):
            assert "is not signed with HS256" in str(refusal_of(token))

    def test_that_is_missing_is_refused(self) -> None:
        token = by_hand(CLAIMS)

        refusal_of(token.rpartition(".")[0] + ".")
        refusal_of(token.rpartition(".")[0])
        refusal_of(jwt.encode(CLAIMS, "", "none"))
        refusal_of(by_hand(CLAIMS, {}))

    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    def test_made_with_the_public_key_as_a_secret_is_refused(
        self, rsa_key: rsa.RSAPrivateKey, encoding: Encoding
    ) -> None:
        rs256 = JwtVerifier(public(rsa_key), algorithm="RS256", clock=lambda: NOW)

        for secret in (public(rsa_key, encoding), public(rsa_key, encoding).strip()):
            token = by_hand(CLAIMS, {"alg": "HS256"}, secret)
            assert "is not signed with RS256" in str(refusal_of(token, rs256))
            assert "signature" in str(refusal_of(by_hand(CLAIMS, {"alg": "RS256"}, secret), rs256))

    def test_of_another_key_pair_is_refused(
        self, rsa_key: rsa.RSAPrivateKey, ed_key: ed25519.Ed25519PrivateKey
    ) -> None:
        rs256 = JwtVerifier(public(rsa_key), algorithm="RS256", clock=lambda: NOW)
        eddsa = JwtVerifier(public(ed_key), algorithm="EdDSA", clock=lambda: NOW)
        others = rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()

        assert "signature" in str(refusal_of(jwt.encode(CLAIMS, others[0], "RS256"), rs256))
        assert "signature" in str(refusal_of(jwt.encode(CLAIMS, others[1], "EdDSA"), eddsa))
        assert "not signed with RS256" in str(refusal_of(jwt.encode(CLAIMS, rsa_key, "PS256"), rs256))
        assert "not signed with EdDSA" in str(refusal_of(jwt.encode(CLAIMS, rsa_key, "RS256"), eddsa))
        for token in ("", "AA", "AA" * 64):
            refusal_of(jwt.encode(CLAIMS, ed_key, "EdDSA").rpartition(".")[0] + "." + token, eddsa)

    def test_is_checked_before_anything_of_the_claims_is_read(self) -> None:
        for payload in (b"{", b"[" * 5000, CLAIMS | {"exp": 1}, CLAIMS | {"aud": "x"}):
            assert "signature" in str(refusal_of(by_hand(payload, secret=SECRET + "x")))

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": "HS256", "b64": False, "crit": ["b64"]},
            {"alg": "HS256", "crit": ["exp"]},
            {"alg": "HS256", "crit": []},
            {"alg": "HS256", "kid": 7},
            [],
            "HS256",
            b"",
            b"{",
            b"\xff",
            b'{"alg":"HS256","x":' + b"[" * 4000,
            b'{"alg":"HS256","x":' + b"9" * 4400 + b"}",
        ],
        ids=repr,
    )
    def test_under_an_odd_header_is_refused(self, header: Any) -> None:
        assert str(refusal_of(by_hand(CLAIMS, header))) == "this token is not a signed JSON web token: present one"


class TestClaims:
    @pytest.mark.parametrize("claim", ["sub", "exp", "caps"])
    def test_that_are_missing_or_null_are_refused(self, claim: str) -> None:
        assert f"missing required field `{claim}`" in str(refusal_of(by_hand(without(claim))))
        assert f"$.{claim}" in str(refusal_of(by_hand(CLAIMS | {claim: None})))

    @pytest.mark.parametrize("sub", ["", "a" * 129, "a\nb", "a\0", "\u202eann", "\ud800", "a\u2028b", "\x9b1m"])
    def test_with_a_subject_that_cannot_stand_in_a_log_are_refused(self, sub: str) -> None:
        assert "`sub` must be 1 to 128 printable characters" in str(refusal_of(by_hand(CLAIMS | {"sub": sub})))

    @pytest.mark.parametrize("sub", ["a", "a" * 128, "Ann Bö <ann@example.org>"])
    def test_with_any_other_subject_are_accepted(self, sub: str) -> None:
        assert verifier().verify(by_hand(CLAIMS | {"sub": sub})).subject == sub

    @pytest.mark.parametrize("name", ["exp", "nbf"])
    @pytest.mark.parametrize(
        "value", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "9" * 4400, "-1", "true", '"1"', "[]", "{}"]
    )
    def test_with_a_time_that_is_no_time_are_refused(self, name: str, value: str) -> None:
        payload = json.dumps(CLAIMS | {name: "here"}).replace('"here"', value)

        assert "claims of the token are wrong" in str(refusal_of(by_hand(payload.encode())))

    @pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
    def test_that_are_no_json_are_refused_also_where_nobody_reads_them(self, constant: str) -> None:
        payload = json.dumps(CLAIMS)[:-1] + f', "x": [{constant}]}}'

        assert f"{constant} is not a number in JSON" in str(refusal_of(by_hand(payload.encode())))

    def test_with_a_time_beyond_the_year_9998_are_refused(self) -> None:
        assert verifier().verify(by_hand(CLAIMS | {"exp": 253_370_764_799})).subject == "ann"
        refusal_of(by_hand(CLAIMS | {"exp": 253_370_764_800}))

    @pytest.mark.parametrize(
        ("caps", "why"),
        [
            ({}, "Expected `array`"),
            ("read", "Expected `array`"),
            ([7], "Expected `object`"),
            ([{}], "missing required field `agent`"),
            ([{"agent": "*"}], "missing required field `ops`"),
            ([{"agent": "*", "ops": []}], "needs an operation"),
            ([{"agent": "*", "ops": "read"}], "Expected `array`"),
            ([{"agent": "*", "ops": ["reed"]}], "Invalid enum value 'reed'"),
            ([{"agent": "*", "ops": ["READ"]}], "Invalid enum value"),
            ([{"agent": "*", "ops": ["\ud800"]}], "surrogates not allowed"),
            ([{"agent": "*", "ops": [None]}], "Expected `str`"),
            ([{"agent": 7, "ops": ["read"]}], "Expected `str`"),
            ([{"agent": "a b", "ops": ["read"]}], "is not a valid agent id"),
            ([{"agent": "a\n*", "ops": ["read"]}], "is not a valid agent id"),
            ([{"agent": "**", "ops": ["read"]}], "is not a valid agent id"),
            ([{"agent": "\ud800", "ops": ["read"]}], "is not a valid agent id"),
            ([{"agent": "*", "ops": ["read"], "until": 7}], "unknown field `until`"),
            ([{"agent": "*", "ops": ["read"], "a\nb" * 200: 7}], "unknown field"),
            (CAPS * (MAX_CAPABILITIES + 1), "length <= 64"),
        ],
    )
    def test_with_malformed_capabilities_are_refused(self, caps: Any, why: str) -> None:
        assert why in str(refusal_of(by_hand(CLAIMS | {"caps": caps})))

    def test_that_stand_twice_are_refused(self) -> None:
        twice = json.dumps(CLAIMS)[:-1].encode()

        assert "a repeated name" in str(refusal_of(by_hand(twice + b', "sub": "bob"}')))
        assert "a repeated name" in str(refusal_of(by_hand(twice + b', "x": {"a": 1, "\\u0061": 2}}')))

    @pytest.mark.parametrize(
        "payload",
        [
            *(b"", b"null", b"[]", b"7", b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 5000, b'{"a":' * 1000),
            *(json.dumps(CLAIMS).encode("utf-16"), json.dumps(CLAIMS).encode() + b"x"),
        ],
    )
    def test_that_are_no_object_in_utf_8_are_refused(self, payload: bytes) -> None:
        assert "claims of the token are wrong" in str(refusal_of(by_hand(payload)))

    @pytest.mark.parametrize("claims", [{"aud": 7}, {"aud": [7]}, {"aud": {}}, {"iss": 7}, {"iss": ["us"]}])
    def test_of_place_that_are_no_text_are_refused(self, claims: dict[str, Any]) -> None:
        assert "claims of the token are wrong" in str(refusal_of(by_hand(CLAIMS | claims)))


class TestSize:
    def test_a_token_of_the_greatest_size_is_accepted_and_one_more_byte_is_not(self) -> None:
        for length in range(5800, 6200):
            token = by_hand(CLAIMS | {"x": "x" * length})
            if len(token) > MAX_TOKEN_BYTES:
                break
            last = token

        assert len(last) > MAX_TOKEN_BYTES - 4 and verifier().verify(last).subject == "ann"
        assert "more than 8,192 bytes" in str(refusal_of(token))

    def test_the_limit_counts_bytes(self) -> None:
        token = "\u6f22" * (MAX_TOKEN_BYTES // 3 + 1)

        assert len(token) < MAX_TOKEN_BYTES
        assert "more than 8,192 bytes" in str(refusal_of(token))

    def test_a_token_without_end_is_refused_without_being_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        by = verifier()
        monkeypatch.setattr(base64, "urlsafe_b64decode", lambda data: pytest.fail("it was decoded"))

        assert "more than 8,192 bytes" in str(refusal_of("eyJ" + "a" * 1_000_000 + ".a.a", by))


VALID: Final = by_hand(CLAIMS)
# Few letters, and the odd ones among them: a strategy of all of Unicode takes a second to make on a fresh machine.
letters: Final = st.sampled_from([*'aZ09._:-*=+/{}[]"\\ ', "é", "\u202e", "\ud800", "\0", "\n", "😀"])


def is_valid(token: str) -> bool:
    """Whether it is the valid token; padding, which some issuers add to a part, is the one other spelling of it."""
    return [part.rstrip("=") for part in token.split(".")] == VALID.split(".")


def text(max_size: int) -> st.SearchStrategy[str]:
    return st.text(letters, max_size=max_size)


pieces = st.sampled_from(["", ".", "=", "é", "\ud800", "\0", "A", VALID, VALID.split(".")[0], "eyJhbGciOiJub25lIn0"])
values: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text(9) | st.sampled_from(["*", "read", "a:*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["agent", "ops", "x"]) | text(3), inner, max_size=3)
    ),
    max_leaves=8,
)


class TestWhateverIsPresented:
    @settings(deadline=None)
    @given(text(200) | st.lists(pieces | text(3), max_size=6).map("".join))
    def test_is_refused_with_a_token_error(self, token: str) -> None:
        if not is_valid(token):
            with pytest.raises(TokenError):
                verifier().verify(token)

    @settings(deadline=None)
    @given(st.integers(0, len(VALID)), st.integers(0, 5), pieces | text(3))
    def test_a_token_that_was_changed_anywhere_is_refused(self, at: int, length: int, put: str) -> None:
        token = VALID[:at] + put + VALID[at + length :]

        if not is_valid(token):
            with pytest.raises(TokenError):
                verifier().verify(token)

    @settings(deadline=None)
    @given(
        st.binary(max_size=100)
        | values.map(lambda value: json.dumps(value).encode())
        | st.dictionaries(st.sampled_from(["sub", "exp", "caps", "nbf", "aud", "iss"]), values).map(
            lambda claims: json.dumps(CLAIMS | claims).encode()
        )
    )
    def test_signed_claims_are_granted_or_refused_and_nothing_else(self, payload: bytes) -> None:
        try:
            grant = verifier().verify(by_hand(payload))
        except TokenError as error:
            assert str(error).isprintable()
        else:
            assert grant.subject.isprintable() and grant.expires_at is not None and not grant.has_expired(NOW)

    @settings(deadline=None)
    @given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "x5c", "zip"]), values))
    def test_signed_headers_are_followed_or_refused_and_nothing_else(self, header: dict[str, Any]) -> None:
        try:
            grant = verifier().verify(by_hand(CLAIMS, header))
        except TokenError:
            return
        assert header.get("alg") == "HS256" and grant.subject == "ann"


class TestAKey:
    def refusal_of(self, key: str | bytes, algorithm: Any) -> str:
        with pytest.raises(InvalidValueError) as refused:
            JwtVerifier(key, algorithm=algorithm)
        shown = "".join(traceback.format_exception(refused.value))
        lines = (key if isinstance(key, str) else key.decode("latin-1")).splitlines()
        assert not any(len(line) > 8 and not line.startswith("-----") and line in shown for line in lines)
        return str(refused.value)

    @pytest.mark.parametrize("secret", ["", "short", SECRET[:31], b"\0" * 31])
    def test_of_less_than_32_bytes_is_no_secret(self, secret: str | bytes) -> None:
        assert f"has {len(secret)} bytes, but needs at least 32" in self.refusal_of(secret, "HS256")

    def test_of_another_algorithm_is_no_secret(self, rsa_key: rsa.RSAPrivateKey) -> None:
        numbers = json.dumps({"kty": "oct", "k": part(SECRET.encode())})

        for key in (public(rsa_key), public(rsa_key, Encoding.DER), private(rsa_key), numbers):
            assert "is a key of another algorithm" in self.refusal_of(key, "HS256")

    def test_of_less_than_2048_bits_is_too_weak(self) -> None:
        weak = public(rsa.generate_private_key(65537, 1024))

        assert self.refusal_of(weak, "RS256") == "the key has 1,024 bits, but RS256 needs at least 2,048"

    def test_that_is_private_is_refused(self, rsa_key: rsa.RSAPrivateKey, ed_key: ed25519.Ed25519PrivateKey) -> None:
        for key, algorithm in (
            (private(rsa_key), "RS256"),
            (private(rsa_key, b"password"), "RS256"),
            (private(ed_key), "EdDSA"),
        ):
            assert self.refusal_of(key, algorithm).startswith("this is a private key")

    def test_of_another_kind_is_refused(self, rsa_key: rsa.RSAPrivateKey, ed_key: ed25519.Ed25519PrivateKey) -> None:
        curve = public(ec.generate_private_key(ec.SECP256R1()))

        for key, algorithm in (
            (public(rsa_key), "EdDSA"),
            (public(ed_key), "RS256"),
            (curve, "RS256"),
            (curve, "EdDSA"),
            (public(ed448.Ed448PrivateKey.generate()), "EdDSA"),
        ):
            assert self.refusal_of(key, algorithm) == f"the key is not of the kind that {algorithm} needs"

    @pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
    def test_that_is_no_key_is_refused(self, algorithm: str, rsa_key: rsa.RSAPrivateKey) -> None:
        unknown_curve = b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----" % base64.b64encode(
            bytes.fromhex("301a301006072a8648ce3d020106052b81040001030600") + b"\4\1\1\1\1"
        )

        for key in (
            *("", SECRET, b"\xff" * 300, unknown_curve),
            *(public(rsa_key, Encoding.DER), public(rsa_key)[:200]),
        ):
            assert "is not a public key in PEM" in self.refusal_of(key, algorithm)

    @pytest.mark.parametrize("algorithm", ["none", "HS512", "hs256", "", "PS256", ["HS256"], None])
    def test_is_taken_for_one_of_three_algorithms_only(self, algorithm: Any) -> None:
        assert self.refusal_of(SECRET, algorithm) == "the algorithm of tokens must be one of HS256, RS256, EdDSA"

    @pytest.mark.parametrize("leeway_s", [-1.0, 301.0, float("nan"), float("inf")])
    def test_with_a_leeway_out_of_range_is_refused(self, leeway_s: float) -> None:
        with pytest.raises(InvalidValueError, match="0 to 300 seconds"):
            JwtVerifier(SECRET, algorithm="HS256", leeway_s=leeway_s)


class TestAKeyFile:
    def verified(self, path: Path, key: bytes, token: str, algorithm: JwtAlgorithm) -> Grant:
        path.write_bytes(key)
        return JwtVerifier.from_file(
            path, algorithm=algorithm, audience="here", issuer="us", leeway_s=5, clock=lambda: NOW
        ).verify(token)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "key"
        path.touch(0o600)
        return path

    @pytest.mark.parametrize("end", ["", "\n", "\r\n", " \n"])
    def test_holds_a_secret_with_or_without_a_newline(
        self, path: Path, caplog: pytest.LogCaptureFixture, end: str
    ) -> None:
        token = by_hand(CLAIMS | {"aud": "here", "iss": "us"})

        assert self.verified(path, f"{SECRET}{end}".encode(), token, "HS256").expires_at == NOW + 65
        assert caplog.records == []

    def test_may_hold_random_bytes_of_which_the_last_is_a_newline(self, path: Path) -> None:
        secret = bytes(range(200, 231)) + b"\n"

        assert self.verified(path, secret, by_hand(CLAIMS | {"aud": "here", "iss": "us"}, secret=secret), "HS256")

    def test_may_hold_a_public_key_that_everybody_may_read(
        self, path: Path, rsa_key: rsa.RSAPrivateKey, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.chmod(0o644)
        token = jwt.encode(CLAIMS | {"aud": "here", "iss": "us"}, rsa_key, "RS256")

        assert self.verified(path, public(rsa_key), token, "RS256").subject == "ann"
        assert caplog.records == []

    def test_with_a_secret_that_others_may_read_is_warned_of(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.chmod(0o644)

        self.verified(path, SECRET.encode(), by_hand(CLAIMS | {"aud": "here", "iss": "us"}), "HS256")

        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match="none cannot be read: No such file"):
            JwtVerifier.from_file(tmp_path / "none", algorithm="RS256")


@pytest.mark.parametrize("library", ["jwt", "cryptography"])
def test_without_its_libraries_the_module_says_what_to_install(library: str) -> None:
    script = f"import sys; sys.modules[{library!r}] = None; import commitcast.gateway.auth_jwt"

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].endswith(
        'reading JSON web tokens needs libraries that are not installed: pip install "commitcast[auth]"'
    )


def test_a_verifier_shows_nothing_of_its_key() -> None:
    assert SECRET not in repr(verifier())
