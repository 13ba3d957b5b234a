"""Supervision: a thread per worker, a table of states, restarts that back off and never give up."""

from mcastd.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
