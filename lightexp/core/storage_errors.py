"""What errors of fsspec's backends mean for the user."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from lightexp.core.formatting import format_duration

_REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
_BARE_CODES = ("301", "307", "400", "403")  # of answers to HEAD
_DENIED = (401, 403)  # status codes of HTTP
_REASON_CHARS = 300
_CLOCK_LIMIT_S = 300.0  # S3 denies access from 15 minutes
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
_NO_CONDITION_CODES = ("NotImplemented", "501")  # of some servers that speak S3's protocol


def summarize(error: BaseException) -> str:
    """Return the first lines of an error's message, or of S3's answer to a request, as one line."""
    answer = _read_answer(error).get("Error", {})
    if answer.get("Code") and answer.get("Message") and not isinstance(error, PermissionError):
        return f"{answer['Code']}: {answer['Message']}"[:_REASON_CHARS].rstrip(".")
    return " ".join(str(error).strip().splitlines()[:2])[:_REASON_CHARS].rstrip(".") or type(error).__name__


def is_denied(error: BaseException) -> bool:
    """Check whether an error of a backend means that the storage denies access."""
    status = getattr(error, "status_code", getattr(error, "code", None))  # Azure's, Google's
    is_forbidden = str(error).startswith("Forbidden: ")  # gcsfs has an OSError for this status
    has_none = type(error).__name__ in _NO_CREDENTIALS
    return isinstance(error, PermissionError) or has_none or is_forbidden or status in _DENIED


def find_host_problem(error: BaseException) -> str | None:
    """Return what this host has to change, from S3's answer to a request; None if that does not say it."""
    response = _read_answer(error)
    reason, headers = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = reason.get("Region") or headers.get("x-amz-bucket-region")
    if reason.get("Code") in _REGION_CODES or (reason.get("Code") in _BARE_CODES and region):
        return f"its region is {region or 'another one'}. Set AWS_DEFAULT_REGION={region or 'REGION'}."
    if isinstance(error, PermissionError) and (date := headers.get("date")):
        with suppress(ValueError):
            seconds = abs(time.time() - parsedate_to_datetime(date).timestamp())
            if seconds > _CLOCK_LIMIT_S:
                return f"this host's clock differs by {format_duration(seconds)} from the storage's. Set the clock."
    return None


def lacks_conditions(error: BaseException) -> bool:
    """Check whether an error of a backend means that the server has no conditional writes."""
    return _read_answer(error).get("Error", {}).get("Code") in _NO_CONDITION_CODES


def _read_answer(error: BaseException) -> dict[str, Any]:
    """Return S3's answer to a request; empty if the error has none."""
    response = getattr(error.__cause__ or error, "response", None)
    return response if isinstance(response, dict) else {}
