"""What a request can be answered with in place of what it asked for."""

from typing import Any

from charlm.errors import as_keyword, written


class RequestError(Exception):
    """A request that is refused, in OpenAI's shape.

    Args:
        message: what is wrong and what to do.
        status: of HTTP.
        param: the field of the body that is wrong, if one is.
        headers: to answer with.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return error_body(str(self), kind, self.param)


def error_body(message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    message = written(message, as_keyword)
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}
