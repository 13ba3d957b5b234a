"""``python -m bench``: measure mcastd beside C references and Debian's tools, and compare with its goals.

Everything happens in network namespaces that it makes, and nothing of it stays but the results.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import (
    report,
    rows_amt,
    rows_analysis,
    rows_beside,
    rows_churn,
    rows_cost,
    rows_engines,
    rows_file,
    rows_gateway,
    rows_hosts,
    rows_links,
    rows_many,
    rows_media,
    rows_objects,
    rows_paced,
    rows_receive,
    rows_recorded,
    rows_relay,
    rows_send,
    rows_sequence,
    rows_sources,
    rows_time,
)
from bench.context import Bench
from bench.daemon import Checkout
from bench.lab import Lab

RESULTS = Path(__file__).parent / "RESULTS.md"
ROOT = Path(__file__).parents[2]
ROUNDS, QUICK_ROUNDS = 5, 2
QUIET = 0.1  # cores that others may use: a pause of some milliseconds is a loss at a full rate

ROWS: dict[str, Callable[[Bench], list[report.Result]]] = {
    "raw": rows_receive.raw,
    "rates": rows_receive.at_rates,
    "at-once": rows_receive.at_once,
    "gso": rows_receive.gso,
    "json": rows_receive.as_json,
    "fifo": rows_receive.fifo,
    "send": rows_send.send,
    "relay": rows_relay.relay,
    "sources": rows_sources.sources,
    "amt-relay": rows_amt.relay,
    "amt-gateway": rows_amt.gateway,
    "gateway": rows_gateway.gateway,
    "busy": rows_many.busy,
    "beside": rows_many.beside,
    "idle": rows_many.idle,
    "growth": rows_many.growth,
    "churn": rows_churn.churn,
    "slow": rows_paced.slow,
    "paced": rows_paced.paced,
    "films": rows_media.films,
    "record": rows_recorded.record,
    "replay": rows_recorded.replay,
    "cost": rows_cost.cost,
    "file": rows_file.whole_file,
    "files-in": rows_objects.receive,
    "files-out": rows_objects.send_files,
    "files-memory": rows_objects.memory,
    "files-hosts": rows_hosts.hosts,
    "files-beside": rows_beside.beside_files,
    "intervals": rows_time.intervals,
    "rtp-order": rows_sequence.order,
    "legs": rows_sequence.legs,
    "ts-checks": rows_analysis.checks,
    "links": rows_links.links,
    "engines": rows_engines.engines,
    "engine-sources": rows_engines.taken,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated names, of: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help=f"of every row (default {ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it works")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has mcastd's libraries")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the sources of the mcastd to measure")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} beside this, if all rows ran")
    parser.add_argument("--json", type=Path, help="a file for every single sample")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    names = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"no such row: {', '.join(unknown)} (there are {', '.join(ROWS)})")
    if missing := report.missing_packages():
        raise SystemExit(f"programs are missing: apt-get install {' '.join(missing)}")
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    checkout = Checkout(options.python, options.checkout.resolve())
    checkout.verify()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that all is cleaned up
    neighbours = report.Neighbours()
    try:
        results, failed = run(names, checkout, rounds, quick=options.quick)
    except KeyboardInterrupt:
        return 130

    others = neighbours.cores()

    print(report.text_table(results))
    print(f"others used {others:.2f} cores meanwhile")
    if others > QUIET:
        print("the machine was not quiet: rates, losses, latency and lateness are not to be relied on")
    if options.json:
        samples = {result.work: result.samples for result in results}
        options.json.write_text(json.dumps(samples, indent=1) + "\n")
    whole = not options.rows and not options.quick and not failed
    if path := options.results or (RESULTS if whole else None):
        path.write_text(report.markdown(results, report.facts(checkout, rounds, others), method()))
        print(f"written to {path}")
    return 1 if failed else 0


def run(
    names: Sequence[str], checkout: Checkout, rounds: int, *, quick: bool
) -> tuple[list[report.Result], bool]:
    """The results of the rows, and whether one of them failed."""
    results: list[report.Result] = []
    failed = False
    with Lab(lambda line: print(line, file=sys.stderr, flush=True)) as lab:
        for name in names:
            started, neighbours = time.monotonic(), report.Neighbours()
            try:
                found = ROWS[name](Bench(lab, checkout, rounds, quick))
                for result in found:
                    result.notes.append(f"others used {neighbours.cores():.2f} cores meanwhile")
                results += found
            except Exception:  # the other rows are worth having
                failed = True
                traceback.print_exc()
                results.append(report.Result(name, {}, [report.Check("", "failed, see above", None)]))
            lab.say(f"{name}: {time.monotonic() - started:.1f} s")
    return results, failed


def method() -> str:
    return (Path(__file__).parent / "METHOD.md").read_text()


if __name__ == "__main__":
    sys.exit(main())
