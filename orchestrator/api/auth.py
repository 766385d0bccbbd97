"""Who asks: a Bearer token from API_TOKENS stands for an organization. Without tokens, everyone is `default`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request

from orchestrator.errors import UnauthorizedError
from orchestrator.settings import DEFAULT_ORGANIZATION

__all__ = ["Organization", "organization_of"]


def organization_of(tokens: Mapping[str, str], authorization: str | None) -> str:
    """The organization that the Authorization header's token stands for. Raises `UnauthorizedError`."""
    if not tokens:
        return DEFAULT_ORGANIZATION
    scheme, _, shown = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthorizedError
    found = None
    # All are compared, each in constant time, so that the time of an answer tells nothing about any token.
    for token, organization in tokens.items():
        if hmac.compare_digest(token.encode(), shown.strip().encode("utf-8", "surrogatepass")):
            found = organization
    if found is None:
        raise UnauthorizedError
    return found


def _organization(request: Request) -> str:
    return organization_of(request.app.state.tokens, request.headers.get("authorization"))


Organization = Annotated[str, Depends(_organization)]
