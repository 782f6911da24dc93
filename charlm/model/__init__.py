"""The network in torch."""

from importlib.util import find_spec

from charlm.errors import PackageError


def require_torch() -> None:
    """Raise PackageError if torch is not installed."""
    if find_spec("torch") is None:
        raise PackageError(
            "training and evaluating need torch, which is not installed: pip install torch"
        )
