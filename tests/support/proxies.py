"""Real proxies in front of a server: nginx and HAProxy, as Debian packages them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {settings}
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{target}; }} }}
}}
"""
_HAPROXY = """
defaults
  mode http
  timeout connect 60s
  retries 0
  timeout client 60s
  timeout server 60s
  {settings}
frontend front
  bind 127.0.0.1:{port} proto h2
  default_backend back
backend back
  server one {target} proto h2
"""

_held: list[socket.socket] = []
"""Sockets that are bound and do not listen, for each port that was given out."""


@contextmanager
def nginx(target: str, folder: Path, settings: str = "") -> Iterator[str]:
    """Start nginx before `target`, with more settings of its http block; yield its address."""
    with _proxy("nginx", ["-c"], _NGINX, target, folder, settings) as url:
        yield url


@contextmanager
def haproxy(target: str, folder: Path, settings: str = "") -> Iterator[str]:
    """Start HAProxy before `target`, with more settings of its defaults; yield its address."""
    with _proxy("haproxy", ["-db", "-f"], _HAPROXY, target, folder, settings) as url:
        yield url


@contextmanager
def _proxy(
    program: str, options: list[str], template: str, target: str, folder: Path, settings: str
) -> Iterator[str]:
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed: apt-get install nginx-light haproxy")
    port = free_port()
    config = folder / f"{program}.conf"
    config.write_text(template.format(port=port, target=target, folder=folder, settings=settings))
    with subprocess.Popen([path, *options, str(config)], stderr=subprocess.PIPE) as process:
        try:
            _wait_until_open(process, port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody else is given while the tests run."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return holder.getsockname()[1]


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    _, errors = process.communicate(timeout=1)
    raise RuntimeError(f"{process.args} does not listen on {port}: {errors.decode()}")
