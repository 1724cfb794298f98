"""JSON web tokens: what an issuer signed about somebody, as a grant. Needs the extra `auth`.

Takes one algorithm and one key, chosen by the server's owner; what a token says of itself is never followed. The
signature comes first: nothing of the claims is read before it holds. PyJWT checks that signature; the claims are
checked here, against the clock that was passed in. Only `from_file` touches the disk; called from any thread.

Claims: `sub`, `exp` and `caps` must be there; `nbf` is kept to; `aud` and `iss` must be what the server expects.
"""

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

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
"""Of an HS256 secret: RFC 7518 section 3.2. A shorter one can be guessed from a single token, at leisure."""
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_CAPABILITIES: Final = 64
"""Each is looked at for each request."""
MAX_SUBJECT_LENGTH: Final = 128
"""Characters: as any other name that is kept."""
DEFAULT_LEEWAY_S: Final = 10.0
"""How far two clocks that are kept may be apart."""
MAX_LEEWAY_S: Final = 300.0
"""A clock further off than this should be set, not excused."""
_END_OF_TIME: Final = 253_370_764_800
"""The year 9999 in Unix seconds: no RFC 3339 text is longer, and no float is endless."""
_SHOWN: Final = 200
"""Characters of a decoder's complaint, which quotes the claims."""
_UNREADABLE: Final = (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError)
"""What decoders raise: no token, no JSON, not our claims, a lone surrogate, too many digits, nested too deeply."""

_JWS: Final = jwt.PyJWS()
"""Checks signatures, and is told each time with what algorithm. It knows nothing of claims."""

_Time = Annotated[float, msgspec.Meta(ge=0, lt=_END_OF_TIME)]


class _Claims(msgspec.Struct):
    """What is read of a token. Other claims are passed over: RFC 7519 section 4."""

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
        """Take the key.

        Args:
            key: for HS256 the secret, at least 32 bytes; for RS256 (at least 2,048 bits) and EdDSA (Ed25519) the
                public key in PEM.
            algorithm: the only one that is accepted.
            audience: what `aud` must name; with None a token that has an `aud` is meant for somebody else.
            issuer: what `iss` must be; None is anybody with the key.
            leeway_s: how much longer than `exp`, and sooner than `nbf`, a token holds; at most 300.
            clock: the time in Unix seconds.

        Raises:
            InvalidValueError: the key does not fit the algorithm or is too weak, or there is no such algorithm.
        """
        if algorithm not in get_args(JwtAlgorithm):
            raise InvalidValueError(f"the algorithm of tokens is one of {', '.join(get_args(JwtAlgorithm))}")
        if not 0 <= leeway_s <= MAX_LEEWAY_S:
            raise InvalidValueError(f"the leeway is 0 to {MAX_LEEWAY_S:.0f} seconds")
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
        """Take the key from a file. White space around a secret that is text does not belong to it.

        Args: those of the constructor.

        Raises:
            InvalidValueError: the file cannot be read, or the constructor raises it.
        """
        key = read_key_file(path, is_secret=algorithm == "HS256")
        if key.isascii():  # not random bytes, of which the last may be any
            key = key.strip()
        return cls(key, algorithm=algorithm, audience=audience, issuer=issuer, leeway_s=leeway_s, clock=clock)

    def verify(self, token: str) -> Grant:
        """Return what a token grants, until `exp` and the leeway.

        Raises:
            TokenError: it is not accepted, or has expired.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError(f"the token has more than {MAX_TOKEN_BYTES:,} bytes: ask for one with fewer claims")
        claims = _claims_in(self._signed_part_of(token))
        self._check_place(claims)
        self._check_time(claims)
        return Grant(claims.sub, claims.caps, claims.exp + self._leeway_s)

    def _signed_part_of(self, token: str) -> bytes:
        try:
            payload: bytes = _JWS.decode(token, self._key, algorithms=self._algorithms)
        except jwt.InvalidAlgorithmError:
            raise TokenError(f"the token is not signed with {self._algorithms[0]}, which is needed here") from None
        except jwt.InvalidSignatureError:
            raise TokenError("the signature of the token is wrong: ask its issuer for a new one") from None
        except _UNREADABLE:
            raise TokenError("this is no signed JSON web token") from None
        return payload

    def _check_place(self, claims: _Claims) -> None:
        named = (claims.aud,) if isinstance(claims.aud, str) else claims.aud or ()
        is_meant_for_us = self._audience in named if self._audience is not None else not named
        if not is_meant_for_us:
            raise TokenError("the token is meant for another server: its `aud` is not what is needed here")
        if self._issuer not in (None, claims.iss):
            raise TokenError("the token comes from another issuer: its `iss` is not what is needed here")

    def _check_time(self, claims: _Claims) -> None:
        now = self._clock()
        if claims.nbf is not None and now < claims.nbf - self._leeway_s:
            raise TokenError("the token is not valid yet: use it after its `nbf`")
        if now >= claims.exp + self._leeway_s:
            raise TokenError("the token has expired: get a new one", error_code=ErrorCode.TOKEN_EXPIRED)


def _claims_in(payload: bytes) -> _Claims:
    try:
        found = json.loads(payload.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        return msgspec.convert(found, _Claims)
    except _UNREADABLE as error:
        why = str(error).encode("unicode_escape").decode()  # in one line, and without lone surrogates
        raise TokenError(f"the claims of the token are wrong: {why:.{_SHOWN}}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object in which every name stands once: of two, issuer and server might take another one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _checked_secret(secret: bytes) -> bytes:
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidValueError(
            f"the secret for HS256 has {len(secret)} bytes and needs {MIN_SECRET_BYTES} random ones"
        )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:  # whoever knows the public key of an issuer could sign with it
        raise InvalidValueError("the secret for HS256 is a key of another algorithm: give the shared secret") from None
    return secret


def _public_key(pem: bytes, algorithm: str) -> RSAPublicKey | Ed25519PublicKey:
    if b"PRIVATE KEY" in pem:
        raise InvalidValueError(
            "this is a private key, which stays with the issuer: give the public key that belongs to it"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValueError(
            f"the key for {algorithm} is no public key in PEM (-----BEGIN PUBLIC KEY-----)"
        ) from None
    if algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return key
    if algorithm != "RS256" or not isinstance(key, RSAPublicKey):
        raise InvalidValueError(f"the key is not one for {algorithm}")
    if key.key_size < MIN_RSA_BITS:
        raise InvalidValueError(f"the key has {key.key_size:,} bits, and RS256 needs {MIN_RSA_BITS:,}")
    return key
