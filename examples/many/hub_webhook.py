"""Audits a model of the Hub whenever its files change: a webhook that starts a Job there.

    WEBHOOK_SECRET=... HF_TOKEN=... python hub_webhook.py --port 8080 --images hf://datasets/org/calibration@main

Point a webhook of the Hub (settings, "Webhooks", repositories to watch, secret as above) at this address.
Each Job runs `platodef audit` on the commit that the webhook names; its log ends with the verdict.
"""

import argparse
import hmac
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST = 1 << 20
_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
Start = Callable[[list[str]], str]


def command_of(event: Any, images: str, references: Sequence[str] = ()) -> list[str] | None:
    """Return the command for an event of the Hub; None where no files of a model changed.

    Raises:
        ValueError: It is no event of the Hub.
    """
    try:
        kind, scope = event["repo"]["type"], event["event"]["scope"]
        action, name = event["event"]["action"], event["repo"]["name"]
        if kind != "model" or not scope.startswith("repo.content") or action == "delete":
            return None
        commit = event["repo"]["headSha"]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not an event of the Hub") from None
    if not isinstance(name, str) or not isinstance(commit, str):
        raise ValueError("not an event of the Hub")
    if not _REPOSITORY.fullmatch(name) or not _COMMIT.fullmatch(commit):
        raise ValueError("the event names no repository at a commit")
    words = ["platodef", "audit", "--images", images]
    words += [word for reference in references for word in ("--reference", reference)]
    return [*words, "--output", "terminal", "--", f"{name}@{commit}"]


def start_job(command: list[str], image: str, flavor: str) -> str:
    """Start a Job on the Hub; return its address."""
    from huggingface_hub import run_job

    token = os.environ["HF_TOKEN"]
    return str(run_job(image=image, command=command, flavor=flavor, timeout="4h", token=token).url)


def server(
    address: tuple[str, int], secret: str, images: str, references: Sequence[str], start: Start
) -> Any:
    """Return a server that starts one Job per event with the right secret."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get("X-Webhook-Secret", "")
            length = self.headers.get("Content-Length", "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode()):
                return self._answer(403, "wrong secret")
            if not length.isdecimal() or int(length) > MOST:
                return self._answer(413, "too long")
            try:
                command = command_of(json.loads(self.rfile.read(int(length))), images, references)
            except (ValueError, RecursionError) as error:
                return self._answer(400, str(error)[:200])
            if command is None:
                return self._answer(200, "nothing to audit")
            try:
                return self._answer(202, start(command))
            except Exception as error:  # the Hub sends an event again that was not taken
                self.log_message("no Job: %s", type(error).__name__)
                return self._answer(502, "the Job could not be started")

        def _answer(self, code: int, text: str) -> None:
            body = text.encode("utf-8", "replace")
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(address, Handler)


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--images", required=True)
    parser.add_argument("--reference", action="append", default=[])
    parser.add_argument("--image", default="registry.example/platodef:pinned", help="container with platodef")
    parser.add_argument("--flavor", default="cpu-upgrade")
    arguments = parser.parse_args()
    secret = os.environ.get("WEBHOOK_SECRET", "")
    if not secret or not os.environ.get("HF_TOKEN"):
        print("WEBHOOK_SECRET and HF_TOKEN must be set", file=sys.stderr)
        return 2
    start = lambda command: start_job(command, arguments.image, arguments.flavor)  # noqa: E731
    served = server((arguments.host, arguments.port), secret, arguments.images, arguments.reference, start)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        return 130
    finally:
        served.server_close()


if __name__ == "__main__":
    sys.exit(main())
