"""Show a trained run on a page: type a sentence, see each task's answer and what it rests on.

    python -m multitask.serve RUN

The page and its JSON API (schema at /openapi.json) are for this computer alone unless --host says
otherwise. Nothing that is typed is kept. Needs the extra: pip install 'minbert[serve]'.
"""

import argparse
import errno
import socket
import sys
from contextlib import suppress

from minbert.files import user_path
from multitask.runs.hand_in import trained_model
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, pick_device

HOST = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
OWN_NAMES = ["127.0.0.1", "localhost"]  # so that no other site's name can lead here


def build_parser() -> Parser:
    parser = Parser("python -m multitask.serve", __doc__)
    parser.add_argument("run", type=user_path, help="a run's folder, or its model/ folder")
    parser.add_argument("--host", default=HOST,
                        help=f"the address to listen at; 0.0.0.0 lets the whole network in "
                             f"(default: {HOST})")
    parser.add_argument("--port", type=int, default=8000,
                        help="the port; 0 picks a free one (default: 8000)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    command.add_import_flag(parser)
    return parser


def serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from multitask.serving.app import build_app
        from multitask.serving.limits import CONNECTIONS
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'minbert[serve]'") from None

    if not 0 <= arguments.port < 1 << 16:
        raise ValueError(f"--port {arguments.port}: expected a number from 0 to 65535")
    if not arguments.host:
        raise ValueError("--host is empty: name an address")
    model = trained_model(arguments.run).to(pick_device(arguments.device))
    for task in model.tasks.values():  # one-time costs are paid now, not by the first request
        model.predict(task.name, ["a"] if len(task.text) == 1 else [("a", "b")])

    try:
        listener = socket.create_server((arguments.host, arguments.port))
    except OSError as error:
        reason = error.strerror.split(" (")[0]
        advice = "; --port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        raise OSError(f"--host {arguments.host} --port {arguments.port}: {reason}{advice}"
                      ) from None
    hosts = ["*"] if arguments.host == EVERYWHERE else [*OWN_NAMES, arguments.host]
    app = build_app(model, arguments.run.resolve().name, hosts)
    with listener:
        print(f"http://{arguments.host}:{listener.getsockname()[1]} shows {arguments.run}; "
              "Ctrl-C ends it", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                limit_concurrency=CONNECTIONS, timeout_keep_alive=5,
                                timeout_graceful_shutdown=5)
        with suppress(KeyboardInterrupt):  # the usual end
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by Ctrl-C, 2 usage or input."""
    return command.run(build_parser(), serve, argv)


if __name__ == "__main__":
    sys.exit(main())
