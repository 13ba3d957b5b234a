"""The times that all routers of a network have in common: RFC 3376 section 8, RFC 3810 section 9."""

from __future__ import annotations

from dataclasses import dataclass

from mcastd.protocols.membership import DEFAULT_QUERY_INTERVAL_SECONDS, DEFAULT_ROBUSTNESS


@dataclass(frozen=True, slots=True)
class Timing:
    """What is set; the other times follow from it. All are in seconds."""

    robustness: int = DEFAULT_ROBUSTNESS
    query_interval: float = DEFAULT_QUERY_INTERVAL_SECONDS
    response: float = 10.0  # in which the answers to a general query come
    last_member_interval: float = 1.0  # between the queries that ask whether anybody is left

    @property
    def membership(self) -> float:
        """A membership is forgotten when it was not reported for so long."""
        return self.robustness * self.query_interval + self.response

    @property
    def other_querier(self) -> float:
        """Another querier has gone when it has not asked for so long."""
        return self.robustness * self.query_interval + self.response / 2

    @property
    def startup_interval(self) -> float:
        """Between the first queries, of which there are as many as ``robustness`` says."""
        return self.query_interval / 4

    @property
    def last_member(self) -> float:
        """A group or source that is asked for is forgotten when nobody answers for so long."""
        return self.robustness * self.last_member_interval
