"""The table ``[daemon]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mcastd.config.model import Model
from mcastd.config.types import MetricsAddress, Period, SocketPath


class DaemonSettings(Model):
    """The daemon itself: ``[daemon]``."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe events that are logged."
    )
    log_format: Literal["auto", "console", "json", "journal"] = Field(
        "auto", description="How events are logged on stderr; auto is journal under systemd, else console."
    )
    control_socket: SocketPath = Field(
        Path("/run/mcastd/control"), description="The path of the Unix socket that mcastctl talks to."
    )
    metrics: MetricsAddress | None = Field(
        None, description="The host and port at which Prometheus metrics are served; absent is off."
    )
    stop_timeout: Period = Field(
        10.0, description="How long workers may take to flush and end when the daemon stops, in seconds."
    )
