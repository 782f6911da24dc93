"""Figures for a monitor, in the text format of Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.server.models import Models

KNOWN_PATHS = ("/v1/completions", "/v1/next", "/v1/score", "/v1/inspect", "/v1/models", "/v1/runs")


class Metrics:
    """Counts what is asked for and what is drawn.

    Attributes:
        requests: answers by path and status.
        streams: texts that were asked for, by model.
    """

    def __init__(self, models: Models):
        self.models = models
        self.requests: Counter[tuple[str, int]] = Counter()
        self.streams: Counter[str] = Counter()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return ``app`` with its answers counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def count(message: Message) -> None:
                if message["type"] == "http.response.start":
                    path = scope["path"]
                    known = next((p for p in KNOWN_PATHS if path.startswith(p)), "other")
                    self.requests[known, message["status"]] += 1
                await send(message)

            await app(scope, receive, count if scope["type"] == "http" else send)

        return counted

    def text(self) -> str:
        """Return all figures."""
        lines = [
            "# HELP charlm_requests_total Answers by path and status.",
            "# TYPE charlm_requests_total counter",
        ]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'charlm_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, kind, help, value in (
            ("streams_total", "counter", "Texts that were asked for.", self._asked),
            ("characters_total", "counter", "Characters drawn.", self._drawn),
            ("streams_running", "gauge", "Texts that are being written.", self._running),
            ("streams_waiting", "gauge", "Texts that wait for a place.", self._waiting),
        ):
            lines += [f"# HELP charlm_{name} {help}", f"# TYPE charlm_{name} {kind}"]
            for model in self.models.runs:
                lines.append(f'charlm_{name}{{model="{_escaped(model)}"}} {value(model)}')
        return "\n".join(lines) + "\n"

    def _asked(self, model: str) -> int:
        return self.streams[model]

    def _drawn(self, model: str) -> int:
        return self.models.runs[model].drawn

    def _running(self, model: str) -> int:
        return sum(worker.num_running for worker in self.models.runs[model].workers())

    def _waiting(self, model: str) -> int:
        return sum(worker.num_waiting for worker in self.models.runs[model].workers())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
