"""Ray's token authentication: where the token is, that nobody else can read it, whether a cluster and we agree.

Ray itself says little when the two sides differ: a driver waits for a minute and then cannot connect. So a cluster is
asked first, without the token, which costs milliseconds and does not show the token to strangers.
"""

import os
import secrets
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from harness.experiment_file import ConfigError

MODE = "RAY_AUTH_MODE"
ANSWER_SECONDS = 10
HOW = "put the cluster's token into ~/.ray/auth_token (only you may read it) or its path into RAY_AUTH_TOKEN_PATH"

Answer = Literal["open", "unauthorized", "forbidden"]
"""Whoever asks is served; only who has a token is; not with this one."""


def wanted() -> bool:
    """Whether this process asks for token authentication, which is so unless RAY_AUTH_MODE is `disabled`."""
    mode = os.environ.get(MODE, "token").lower()
    if mode not in {"token", "disabled"}:
        raise ConfigError(f"{MODE}={mode}: Ray knows 'token', the default here, and 'disabled'")
    return mode == "token"


def token() -> str | None:
    """The token that this process has, looked for where Ray does; None without one."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    try:
        return _file().read_text().strip() or None
    except OSError:
        return None


def ensure_token() -> None:
    """Before a cluster starts here: make a token if there is none, and let nobody but its owner read it."""
    if not wanted() or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = _file()
    if not file.exists():
        if os.environ.get("RAY_AUTH_TOKEN_PATH"):
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={file}: no such file")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(file, secrets.token_hex(32))
    # Ray writes it readable for everybody on the machine.
    elif (status := file.stat()).st_uid == os.getuid() and status.st_mode & 0o077 and not file.is_symlink():
        file.chmod(0o600)


def _create(file: Path, content: str) -> None:
    """Write the token file unless another process has just done so; never readable for others, never half there."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(content)
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def agree(address: str) -> None:
    """See that a cluster answers, and that both sides want the same of tokens.

    `address` is a dashboard's (http…) or a head's (host:port). Raises ConfigError, one line with what to do.
    """
    ask = _ask_dashboard if address.startswith(("http://", "https://")) else _ask_head
    answer = ask(address, None)
    if not wanted():
        if answer != "open":
            raise ConfigError(f"{address} wants a token, but {MODE} is 'disabled' here: unset it, and {HOW}")
        return
    if answer == "open":
        raise ConfigError(
            f"{address} serves anybody, without a token; start it with {MODE}=token or, where only trusted people "
            f"reach it, say so with {MODE}=disabled here too"
        )
    ours = token()
    if ours is None:
        raise ConfigError(f"{address} wants a token, and there is none here: {HOW}")
    if ask(address, ours) != "open":
        raise ConfigError(f"{address} refuses the token that is here: {HOW}")


def _ask_dashboard(address: str, ours: str | None) -> Answer:
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version")
    if ours is not None:
        request.add_header("Authorization", f"Bearer {ours}")
    # A proxy of the environment is for the world outside, and a token is not for a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as reply:
            content = reply.read(4096)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return "unauthorized" if error.code == 401 else "forbidden"
        raise ConfigError(f"{address}: answers {error.code} {error.reason}, so it is no Ray dashboard") from error
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
        raise ConfigError(
            f"{address}: no Ray dashboard answers ({_reason(error)}); is the cluster up, and the tunnel to it open?"
        ) from error
    if b"ray_version" not in content:
        raise ConfigError(f"{address}: answers, but is no Ray dashboard")
    return "open"


def _ask_head(address: str, ours: str | None) -> Answer:
    """Ask the cluster's store whether nodes are alive; with an empty message, as only the status matters."""
    import grpc  # type: ignore[import-untyped]

    metadata = [("authorization", f"Bearer {ours}")] if ours is not None else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive", bytes, bytes)
        try:
            ask(b"", timeout=ANSWER_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return "unauthorized" if ours is None else "forbidden"
            raise ConfigError(
                f"RAY_ADDRESS={address}: no Ray head answers ({error.code().name.lower()}); it is the head's host and "
                "port, 6379 unless told otherwise"
            ) from error
    return "open"


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, HTTPException) and not isinstance(cause, ValueError):
        return "it does not speak HTTP"
    return getattr(cause, "strerror", None) or str(cause)
