"""dslstm serve."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dslstm_jax.errors import ConfigError, DslstmError


@dataclass(frozen=True)
class Serve:
    """Try a recognizer on a web page of this machine."""

    model: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder of a trained recognizer, or a file of dslstm export; by default the package's model."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reached from this machine alone, 0.0.0.0 from all others too."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""


def serve_page(arguments: Serve) -> int:
    """dslstm serve"""
    try:
        import uvicorn

        from dslstm_jax.serving.web import make_app
    except ModuleNotFoundError as error:
        raise DslstmError('the page needs starlette and uvicorn: pip install "dslstm-jax[serve]"') from error
    from dslstm_jax.serving.predictor import load
    from dslstm_jax.util.programs import keep_programs

    with _listen(arguments.host, arguments.port) as listener:
        keep_programs()
        predictor = load(arguments.model)
        host, port = listener.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/  (Ctrl+C ends)", flush=True)
        app = make_app(predictor, arguments.model.resolve().name if arguments.model else "pretrained")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, which uvicorn would end the process for not getting."""
    if not 0 <= port < 1 << 16:  # getaddrinfo takes the rest of a division
        raise ConfigError(f"--port {port}: give 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}; try another --host or --port") from error
