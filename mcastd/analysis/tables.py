"""The tables of a transport stream: whether they come often enough, whole, and what they say is there.

ETSI TR 101 290 sections 5.2.1 and 5.2.2: PAT_error, PMT_error, PID_error, CRC_error. Times are arrivals, in
nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from mcastd.analysis.continuity import PidCount
from mcastd.clock import NANO
from mcastd.counters import TransportCheck, TransportCounters
from mcastd.protocols import psi, ts
from mcastd.protocols.psi import Association, MalformedTableError, ProgramMap, Sections
from mcastd.status import TransportTrouble

# PAT and PMT have to come again within this time.
TABLE_NANOS = NANO // 2
# After this time without it, a table, or a stream that a table tells of, counts as not there.
ABSENT_NANOS = 5 * NANO
# Programs whose maps are followed; a stream that is received as one has some tens at most.
PROGRAMS_MAX = 256
# PIDs whose sections have a CRC, beside those of program maps: PAT, CAT, NIT, SDT and BAT, EIT, TOT.
# H.222.0 table 2-3, ETSI EN 300 468 table 1.
_FIXED_PIDS = frozenset((psi.PAT_PID, 0x01, 0x10, 0x11, 0x12, 0x14))
# The one table that has a CRC and does not say so (ETSI EN 300 468 section 5.2.6).
_TOT_TABLE = 0x73
# Types of streams that come all the time (H.222.0 table 2-34): pictures and sound of MPEG. Others may be
# subtitles, which come when there are some.
_STEADY_TYPES = frozenset((0x01, 0x02, 0x03, 0x04, 0x0F, 0x10, 0x11, 0x1B, 0x24, 0x33))


@dataclass(slots=True)
class _Presence:
    """When something came that has to come again and again."""

    seen: int  # the last time, or since when it is waited for
    counted: int  # up to here, an error is counted for its absence

    def is_due(self, when: int, within: int) -> bool:
        """Return True if an error is to be counted: it has not come for so long, or since the last error."""
        is_due = when > self.counted + within
        if is_due:
            self.counted = when
        return is_due

    def came(self, when: int) -> None:
        self.seen = self.counted = when


class _TablePackets:
    """The packets of one PID, put together to sections."""

    def __init__(self) -> None:
        self.known = b""
        """The last packet behind its header, if whole sections were in it, and nothing wrong with them."""
        self.flags = 0  # in its header
        self.came: list[tuple[_Presence, TransportCheck]] = []  # what came with it
        self.counter: int | None = None  # of the last packet with payload
        self._payload = b""  # of the same packet: one that comes twice is the same
        self._sections = Sections()

    @property
    def is_idle(self) -> bool:
        return self._sections.is_idle

    def feed(self, data: bytes, at: int, header: ts.PacketHeader) -> list[bytes]:
        """Take a packet. Returns the sections that are complete."""
        payload = data[ts.payload_at(data, at) : at + ts.PACKET_BYTES]
        if not header.has_payload or (header.counter == self.counter and payload == self._payload):
            return []
        if self.counter is not None and header.counter != self.counter + 1 & 0xF:
            self._sections.lost()
        self.counter, self._payload = header.counter, payload
        return self._sections.feed(payload, header.starts_unit)


class Tables:
    """The tables of one stream."""

    def __init__(self, counters: TransportCounters) -> None:
        self.pids = _FIXED_PIDS
        """Of packets that are to be taken; replaced when it changes."""
        self.programs: dict[int, int] = {}  # the PID of the map, by the number of the program
        self.maps: dict[int, ProgramMap] = {}  # by program
        self.absent_pid: int | None = None  # one that a map tells of, and that does not come
        self._errors = counters.errors
        self._packets: dict[int, _TablePackets] = {}
        self._parts: dict[int, dict[int, int]] = {}  # of the PAT, by the number of the section
        self._version: tuple[int, int] | None = None  # of the PAT: its stream, and its version
        self._pat: _Presence | None = None  # None: nothing has come yet
        self._pmts: dict[int, _Presence] = {}  # by program
        self._awaited: dict[int, _Presence] = {}  # by PID
        self._due = 0  # before this, no table is due

    def take(self, data: bytes, at: int, when: int) -> None:
        """Take the packet at this place, which is of one of the PIDs."""
        first, control, content = data[at + 1], data[at + 3], data[at + 4 : at + ts.PACKET_BYTES]
        pid = (first & 0x1F) << 8 | data[at + 2]
        if (packets := self._packets.get(pid)) is None:
            packets = self._packets[pid] = _TablePackets()
        if content == packets.known and first << 4 | control >> 4 == packets.flags:
            packets.counter = control & 0xF
            for presence, check in packets.came:
                if when > presence.counted + TABLE_NANOS:
                    self._errors[check] += 1
                presence.seen = presence.counted = when
            return
        packets.known, packets.came = b"", []
        errors, programs = self._errors.total(), self.programs
        header = ts.header_at(data, at)
        if header.scrambling:
            if pid == psi.PAT_PID or pid not in _FIXED_PIDS:
                self._errors[TransportCheck.PMT if pid else TransportCheck.PAT] += 1
            return
        was_idle = packets.is_idle
        for section in packets.feed(data, at, header):
            if (came := self._take_section(pid, section, when)) is not None:
                packets.came.append(came)
        is_whole = was_idle and packets.is_idle and header.starts_unit
        if is_whole and errors == self._errors.total() and programs is self.programs:
            packets.known, packets.flags = content, first << 4 | control >> 4

    def look(self, when: int) -> None:
        """Count the tables that should have come by now."""
        if self._pat is None:
            self._pat = _Presence(when, when)
        if when <= self._due:
            return
        self._errors[TransportCheck.PAT] += self._pat.is_due(when, TABLE_NANOS)
        self._errors[TransportCheck.PMT] += sum(pmt.is_due(when, TABLE_NANOS) for pmt in self._pmts.values())
        self._due = TABLE_NANOS + min(one.counted for one in (self._pat, *self._pmts.values()))

    def look_for_pids(self, pids: Mapping[int, PidCount], when: int) -> None:
        """Count the streams that program maps tell of, and that have not come for ABSENT_NANOS."""
        told = {
            pid
            for program in self.maps.values()
            for pid, kind in program.streams.items()
            if kind in _STEADY_TYPES
        }
        self._awaited = {pid: self._awaited.get(pid) or _Presence(when, when) for pid in told}
        absent = None
        for pid, presence in self._awaited.items():
            count = pids.get(pid)
            if count is not None and count.seen > presence.seen:
                presence.came(count.seen)
            self._errors[TransportCheck.PID] += presence.is_due(when, ABSENT_NANOS)
            if when > presence.seen + ABSENT_NANOS:
                absent = pid
        self.absent_pid = absent

    def trouble(self, when: int) -> TransportTrouble | None:
        """What has not come for ABSENT_NANOS, if something has not."""
        if self._pat is not None and when > self._pat.seen + ABSENT_NANOS:
            return TransportTrouble.NO_PAT
        if any(when > pmt.seen + ABSENT_NANOS for pmt in self._pmts.values()):
            return TransportTrouble.NO_PMT
        return None if self.absent_pid is None else TransportTrouble.NO_PID

    def begin_anew(self, when: int) -> None:
        """Everything counts as come at this time: nothing came before, or the clock of arrivals was set."""
        for one in self._presences():
            one.came(when)
        self._due = 0

    def _presences(self) -> Iterable[_Presence]:
        return (*filter(None, (self._pat,)), *self._pmts.values(), *self._awaited.values())

    def _note(self, presence: _Presence, check: TransportCheck, when: int) -> None:
        """A table came that has to come again and again."""
        self._errors[check] += presence.is_due(when, TABLE_NANOS)
        presence.came(when)

    def _take_section(self, pid: int, section: bytes, when: int) -> tuple[_Presence, TransportCheck] | None:
        """Take a section. Returns what came with it, if that has to come again and again."""
        has_crc = section[1] & 0x80 or section[0] == _TOT_TABLE
        if has_crc and psi.crc32(section):
            self._errors[TransportCheck.CRC] += 1
            return None
        if pid == psi.PAT_PID:
            return self._take_pat(section, when)
        is_map = pid not in _FIXED_PIDS and section[0] == psi.PMT_TABLE
        return self._take_pmt(pid, section, when) if is_map else None

    def _take_pat(self, section: bytes, when: int) -> tuple[_Presence, TransportCheck] | None:
        try:
            association = psi.parse_association(section)
        except MalformedTableError:
            self._errors[TransportCheck.PAT] += 1
            return None
        if self._pat is None:
            self._pat = _Presence(when, when)
        self._note(self._pat, TransportCheck.PAT, when)
        if association.is_current:
            self._associate(association, when)
        return self._pat, TransportCheck.PAT

    def _associate(self, association: Association, when: int) -> None:
        version, place = (association.stream, association.version), association.number
        is_new = version != self._version
        if is_new:
            self._version, self._parts = version, {}
        # The 256 sections of a table may have 260,000 programs, and each section may change all the time
        room = PROGRAMS_MAX - sum(len(part) for at, part in self._parts.items() if at != place)
        programs = ((number, pid) for number, pid in association.programs.items() if number)
        part = dict(islice(programs, room))
        if part == self._parts.get(place, {}) and not is_new:
            return
        self._parts[place] = part
        self.programs = {number: pid for part in self._parts.values() for number, pid in part.items()}
        self.pids = _FIXED_PIDS.union(self.programs.values())
        self.maps = {number: one for number, one in self.maps.items() if number in self.programs}
        self._pmts = {number: self._pmts.get(number) or _Presence(when, when) for number in self.programs}
        # What is known of the packets of maps may be of other programs now
        self._packets = {pid: one for pid, one in self._packets.items() if pid in _FIXED_PIDS}
        self._due = 0

    def _take_pmt(self, pid: int, section: bytes, when: int) -> tuple[_Presence, TransportCheck] | None:
        try:
            found = psi.parse_map(section)
        except MalformedTableError:
            self._errors[TransportCheck.PMT] += 1
            return None
        if self.programs.get(found.program) != pid:
            return None
        presence = self._pmts[found.program]
        self._note(presence, TransportCheck.PMT, when)
        if found.is_current:
            self.maps[found.program] = found
        return presence, TransportCheck.PMT
