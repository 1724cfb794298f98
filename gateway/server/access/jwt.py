"""JSON web tokens as grants: `JwtVerifier`. Needs the extra `auth`.

Accepts one algorithm and one key, chosen by the server's owner; the header of a token never chooses. The signature is
verified before any claim is read. PyJWT verifies the signature and msgspec the types of the claims. PyJWT's own checks
of claims are not used: they accept repeated names, `true` and `"1"` as times, round times down, check `exp` before
`aud`, and know no other clock than the system's. Only `from_file` touches the disk; called from any thread.

Claims: `sub`, `exp` and `caps` are required; `nbf` is respected; `aud` and `iss` must be what the server expects.
"""

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from commitcast.gateway.protocol.decoding import size_of
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access.auth import MAX_TOKEN_BYTES, Capability, Grant, read_key_file
from commitcast.gateway.server.errors import MissingExtraError, TokenError
from commitcast.persistence.errors import InvalidValueError

if find_spec("jwt") is None or find_spec("cryptography") is None:
    raise MissingExtraError("reading JSON web tokens", "auth")

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

JwtAlgorithm = Literal["HS256", "RS256", "EdDSA"]

MIN_SECRET_BYTES: Final = 32
"""Of an HS256 secret: RFC 7518 section 3.2. A shorter one can be guessed offline from a single token."""
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_CAPABILITIES: Final = 64
"""Per token: each request checks all of them."""
MAX_SUBJECT_LENGTH: Final = 128
"""In characters, as for other names."""
DEFAULT_LEEWAY_S: Final = 10.0
"""Tolerated difference between two synchronized clocks."""
MAX_LEEWAY_S: Final = 300.0
"""A clock that differs by more should be corrected."""
_END_OF_TIME: Final = 253_370_764_800
"""The end of the year 9998 in Unix seconds: later times have no RFC 3339 text."""
_SHOWN: Final = 200
"""Characters of a decoder's error that are shown; it quotes the claims."""
_UNREADABLE: Final = (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError)
"""What decoders raise: not a token, not JSON, wrong claims, a lone surrogate, too many digits, nested too deeply."""

_JWS: Final = jwt.PyJWS()
"""Verifies signatures with the algorithm that each call gives; does not read claims."""

_Time = Annotated[float, msgspec.Meta(ge=0, lt=_END_OF_TIME)]


class _Claims(msgspec.Struct):
    """The claims that are read. Others are ignored: RFC 7519 section 4."""

    sub: str
    exp: _Time
    caps: Annotated[tuple[Capability, ...], msgspec.Meta(max_length=MAX_CAPABILITIES)]
    nbf: _Time | None = None
    aud: str | tuple[str, ...] | None = None
    iss: str | None = None

    def __post_init__(self) -> None:
        if not (self.sub.isprintable() and 0 < len(self.sub) <= MAX_SUBJECT_LENGTH):
            raise InvalidValueError(f"`sub` must be 1 to {MAX_SUBJECT_LENGTH} printable characters")


class JwtVerifier:
    """Accepts tokens that one issuer signed with one algorithm."""

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithm: JwtAlgorithm,
        audience: str | None = None,
        issuer: str | None = None,
        leeway_s: float = DEFAULT_LEEWAY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a verifier with a key.

        Args:
            key: for HS256 the secret, at least 32 bytes; for RS256 (at least 2,048 bits) and EdDSA (Ed25519) the
                public key in PEM.
            algorithm: the only accepted one.
            audience: what `aud` must contain; None refuses tokens that have an `aud`: they are for another server.
            issuer: what `iss` must be; None accepts any.
            leeway_s: how long after `exp` and before `nbf` a token is accepted, in seconds, at most 300.
            clock: the time in Unix seconds.

        Raises:
            InvalidValueError: the key does not fit the algorithm or is too weak, or the algorithm is not supported.
        """
        if algorithm not in get_args(JwtAlgorithm):
            raise InvalidValueError(f"the algorithm of tokens must be one of {', '.join(get_args(JwtAlgorithm))}")
        if not 0 <= leeway_s <= MAX_LEEWAY_S:
            raise InvalidValueError(f"the leeway must be 0 to {MAX_LEEWAY_S:.0f} seconds")
        data = key.encode() if isinstance(key, str) else key
        self._key = _checked_secret(data) if algorithm == "HS256" else _public_key(data, algorithm)
        self._algorithms: Final = (algorithm,)
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._clock = clock

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        *,
        algorithm: JwtAlgorithm,
        audience: str | None = None,
        issuer: str | None = None,
        leeway_s: float = DEFAULT_LEEWAY_S,
        clock: Callable[[], float] = time.time,
    ) -> "JwtVerifier":
        """Make a verifier with the key in a file. White space around an ASCII secret is not part of it.

        Args: those of the constructor.

        Raises:
            InvalidValueError: the file cannot be read, or the constructor raises it.
        """
        key = read_key_file(path, is_secret=algorithm == "HS256")
        if key.isascii():  # random bytes may end with any byte
            key = key.strip()
        return cls(key, algorithm=algorithm, audience=audience, issuer=issuer, leeway_s=leeway_s, clock=clock)

    def verify(self, token: str) -> Grant:
        """Return what a token grants, until `exp` and the leeway.

        Raises:
            TokenError: it is not accepted, or has expired.
        """
        if size_of(token) > MAX_TOKEN_BYTES:
            raise TokenError(f"the token has more than {MAX_TOKEN_BYTES:,} bytes: ask for one with fewer claims")
        claims = _claims_in(self._verified_payload(token))
        self._check_audience(claims)
        self._check_time(claims)
        return Grant(claims.sub, claims.caps, claims.exp + self._leeway_s)

    def _verified_payload(self, token: str) -> bytes:
        try:
            payload: bytes = _JWS.decode(token, self._key, algorithms=self._algorithms)
        except jwt.InvalidAlgorithmError:
            raise TokenError(f"the token is not signed with {self._algorithms[0]}, as this server requires") from None
        except jwt.InvalidSignatureError:
            raise TokenError("the signature of the token is wrong: ask its issuer for a new one") from None
        except _UNREADABLE:
            raise TokenError("this token is not a signed JSON web token: present one") from None
        return payload

    def _check_audience(self, claims: _Claims) -> None:
        audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud or ()
        if audiences if self._audience is None else self._audience not in audiences:
            raise TokenError("the token is for another server: its `aud` is not the one that this server expects")
        if self._issuer not in (None, claims.iss):
            raise TokenError("the token is from another issuer: its `iss` is not the one that this server expects")

    def _check_time(self, claims: _Claims) -> None:
        now = self._clock()
        if claims.nbf is not None and now < claims.nbf - self._leeway_s:
            raise TokenError("the token is not valid yet: use it after its `nbf`")
        if now >= claims.exp + self._leeway_s:
            raise TokenError("the token has expired: get a new one", error_code=ErrorCode.TOKEN_EXPIRED)


def _claims_in(payload: bytes) -> _Claims:
    try:
        claims = json.loads(payload.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        return msgspec.convert(claims, _Claims)
    except _UNREADABLE as error:
        why = str(error).encode("unicode_escape").decode()  # one line, without lone surrogates
        raise TokenError(f"the claims of the token are wrong: {why:.{_SHOWN}}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object without repeated names, of which issuer and server might read different ones."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has a repeated name")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _checked_secret(secret: bytes) -> bytes:
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidValueError(
            f"the secret for HS256 has {len(secret)} bytes, but needs at least {MIN_SECRET_BYTES} random bytes"
        )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:  # a client that knows an issuer's public key could sign with it
        raise InvalidValueError("the secret for HS256 is a key of another algorithm: give the shared secret") from None
    return secret


def _public_key(pem: bytes, algorithm: str) -> RSAPublicKey | Ed25519PublicKey:
    if b"PRIVATE KEY" in pem:
        raise InvalidValueError(
            "this is a private key, which only the issuer needs: give the public key that belongs to it"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValueError(
            f"the key for {algorithm} is not a public key in PEM (-----BEGIN PUBLIC KEY-----)"
        ) from None
    if algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return key
    if algorithm != "RS256" or not isinstance(key, RSAPublicKey):
        raise InvalidValueError(f"the key is not of the kind that {algorithm} needs")
    if key.key_size < MIN_RSA_BITS:
        raise InvalidValueError(f"the key has {key.key_size:,} bits, but RS256 needs at least {MIN_RSA_BITS:,}")
    return key
