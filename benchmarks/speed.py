"""How fast `underlay speed` moves bytes over the loopback, beside iperf3 with the same settings.

    python benchmarks/speed.py
    python benchmarks/speed.py --rounds 9 --seconds 3 --json speed.json
    python benchmarks/speed.py --cases "TCP" "TCP -R"

Each case is run by four pairs of processes, iperf3 at both ends, underlay at both ends, and each of the two mixtures,
one after another in each round, and each round begins with another pair, so that a noisy moment hurts all alike. Shown
is the median of the rounds of what the receiver read, its range, the ratio to iperf3's median, and the CPU time of both
programs for each gigabyte, as they say of themselves: other programs on the machine change the rate and hardly the
CPU time, so that is the figure to trust on a busy machine. At the end it says whether underlay reaches what is wanted.

It knows the two programs by their command lines and their JSON alone. iperf3 must be installed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
sys.path[:0] = [str(SRC)]

from underlay.tools._compare import describe_machine  # noqa: E402

CASES = {
    "TCP": [],
    "TCP -R": ["-R"],
    "TCP -P 3": ["-P", "3"],
    "TCP -Z": ["-Z"],
    "UDP -b 0": ["-u", "-b", "0"],
}
OURS, THEIRS = "underlay", "iperf3"
PAIRS = [(THEIRS, THEIRS), (OURS, OURS), (OURS, THEIRS), (THEIRS, OURS)]
# Of iperf3's own throughput, at both ends of the default case.
WANTED = 0.9
PATIENCE_S = 30


@dataclass
class Pair:
    """What one pair did in one case, round by round."""

    bits_per_s: list[float] = field(default_factory=list)
    cpu_s_per_gb: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Write it for a program."""
        return {"bits_per_s": self.bits_per_s, "cpu_s_per_gb": self.cpu_s_per_gb}


def free_port() -> int:
    """A port of TCP that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_listening(port: int) -> None:
    """Wait for the server without connecting to it, which would be its one test: proc(5), /proc/net/tcp."""
    for _ in range(PATIENCE_S * 100):
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if int(local.split(":")[1], 16) == port and state == "0A":  # TCP_LISTEN
                    return
        time.sleep(0.01)
    raise RuntimeError(f"nobody listens on port {port}")


def server_command(program: str, port: int) -> list[str]:
    """Serve one test."""
    if program == THEIRS:
        return [THEIRS, "-s", "-1", "-p", str(port)]
    return [sys.executable, "-m", "underlay", "speed", "--server", "--one-off", f"127.0.0.1:{port}"]


def client_command(program: str, port: int, options: list[str], seconds: int) -> list[str]:
    """Do one test, and tell it in JSON."""
    if program == THEIRS:
        return [THEIRS, "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-J", *options]
    return [sys.executable, "-m", "underlay", "speed", f"127.0.0.1:{port}", "-t", str(seconds), "--json", *options]


def figures(program: str, output: str) -> tuple[float, float]:
    """What the receiver read in bits/s, and the CPU seconds of both programs for each GB, by the client's JSON."""
    told = json.loads(output)
    if program == THEIRS:
        if "error" in told:
            raise RuntimeError(told["error"])
        received = told["end"]["sum_received"]
        rate, size = received["bits_per_second"], received["bytes"]
        percents = told["end"]["cpu_utilization_percent"]
        percent = percents["host_total"] + percents["remote_total"]
    else:
        (total,) = told["totals"]
        rate, size = total["received_bits_per_s"], total["received_bytes"]
        percent = sum(end[f"{which}_percent"] for end in told["cpu"].values() for which in ("user", "system"))
    return float(rate), percent / 100 * (size * 8 / rate) / (size / 1e9)


def one_test(client: str, server: str, options: list[str], seconds: int) -> tuple[float, float]:
    """Run one test: bits/s, and CPU seconds of both programs for each GB."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    serving = subprocess.Popen(
        server_command(server, port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    )
    try:
        wait_until_listening(port)
        done = subprocess.run(
            client_command(client, port, options, seconds),
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds + PATIENCE_S,
            check=False,
        )
        _, errors = serving.communicate(timeout=PATIENCE_S)
    finally:
        serving.kill()
        serving.wait()
    if done.returncode or serving.returncode:
        raise RuntimeError(f"{client} to {server}: {done.stdout[-500:]}{done.stderr}{errors}")
    return figures(client, done.stdout)


def measure(cases: list[str], rounds: int, seconds: int) -> dict[str, dict[str, Pair]]:
    """Run all cases by all pairs, in turns."""
    found = {case: {f"{client} → {server}": Pair() for client, server in PAIRS} for case in cases}
    for at in range(rounds):
        for case in cases:
            turn = at % len(PAIRS)
            for client, server in PAIRS[turn:] + PAIRS[:turn]:
                rate, cpu_s_per_gb = one_test(client, server, CASES[case], seconds)
                pair = found[case][f"{client} → {server}"]
                pair.bits_per_s.append(rate)
                pair.cpu_s_per_gb.append(cpu_s_per_gb)
            print(f"round {at + 1} of {rounds}: {case}", file=sys.stderr, flush=True)
    return found


def show(found: dict[str, dict[str, Pair]]) -> bool:
    """Print the table and the verdicts; tell whether all that is wanted is reached."""
    reference = f"{THEIRS} → {THEIRS}"
    print(f"{'':<12}{'client → server':<22}{'Gbit/s':>8}{'from':>8}{'to':>8}{'ratio':>8}{'CPU s/GB':>10}")
    for case, pairs in found.items():
        base = statistics.median(pairs[reference].bits_per_s)
        for name, pair in pairs.items():
            rates = [rate / 1e9 for rate in pair.bits_per_s]
            ratio = statistics.median(pair.bits_per_s) / base
            cpu = statistics.median(pair.cpu_s_per_gb)
            print(
                f"{case:<12}{name:<22}{statistics.median(rates):>8.2f}{min(rates):>8.2f}{max(rates):>8.2f}"
                f"{ratio:>8.2f}{cpu:>10.3f}"
            )
    reached = True
    for case, pairs in found.items():
        base = statistics.median(pairs[reference].bits_per_s)
        ratio = statistics.median(pairs[f"{OURS} → {OURS}"].bits_per_s) / base
        if case == "TCP":
            reached = ratio >= WANTED
            print(f"{case}: {ratio:.2f} × iperf3's; wanted {WANTED} ×: {'reached' if reached else 'NOT reached'}")
        else:
            print(f"{case}: {ratio:.2f} × iperf3's")
    return reached


def markdown(found: dict[str, dict[str, Pair]], command: str) -> str:
    """Write the table for the docs."""
    machine = describe_machine()
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    lines = [
        f"Measured by `{command}` on {datetime.date.today()}: {where}.",
        "",
        f"| options | client → server | Gbit/s, median (least–greatest) | ratio to {THEIRS} | CPU s for each GB |",
        "|---|---|---:|---:|---:|",
    ]
    for case, pairs in found.items():
        base = statistics.median(pairs[f"{THEIRS} → {THEIRS}"].bits_per_s)
        for name, pair in pairs.items():
            rates = [rate / 1e9 for rate in pair.bits_per_s]
            lines.append(
                f"| {case} | {name} | {statistics.median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f}) "
                f"| {statistics.median(pair.bits_per_s) / base:.2f} | {statistics.median(pair.cpu_s_per_gb):.3f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description="underlay speed beside iperf3, over the loopback")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for the docs")
    options = parser.parse_args()
    if shutil.which(THEIRS) is None:
        print("iperf3 is not installed; remedy: apt-get install iperf3", file=sys.stderr)
        return 2
    found = measure(options.cases, options.rounds, options.seconds)
    if options.json:
        told = {case: {name: pair.to_json() for name, pair in pairs.items()} for case, pairs in found.items()}
        options.json.write_text(json.dumps({"machine": describe_machine(), "cases": told}, indent=1))
    if options.markdown:
        command = f"python benchmarks/speed.py --rounds {options.rounds} --seconds {options.seconds}"
        options.markdown.write_text(markdown(found, command))
    return 0 if show(found) else 1


if __name__ == "__main__":
    sys.exit(main())
