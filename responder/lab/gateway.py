"""A small trading gateway to break: real HTTP, a real engine child, Prometheus metrics of simulated traffic.

Copied into each release directory of a lab host and run from there as the unit's main process, so it uses
the standard library only. Like the gateway it imitates it never starts its engine again, keeps orders in
memory only, and answers /health with 200 whatever its engine does. It ends when its standard input is
closed: the host's supervisor holds the other end, so nothing outlives the host.

Faults that the process cannot show by being killed or stopped are read from the JSON file `--faults`
at each request:
  metrics: "no_reply" | "html" | "garbage" | "frozen"
  rate_limited: seconds for Retry-After; every path answers 429
  health_status: the status code of /health and /api/health
  error_share: share (0 to 1) of all requests answered 500
  api_error_share: the same, but what is read from memory is answered: /health, /api/health, /api/orders_state
  delay_ms: added to every answer but /metrics
  down: why nothing can be served; every path but /metrics answers 503
  overload: {"needs": N, "ms": M}: M is added to delay_ms while fewer than N replicas are ready
  leak: {"mib": N, "ms": M, "over_s": S}: memory grows to N MiB within S seconds, and delay_ms with it to M
  exchange: "lost": the market feed stands still
What lasts is elsewhere: a file BROKEN in the release's directory ({"how": ...}) makes this release fail, the
file `--config` is read at the start and on SIGHUP, and `--shared` is what all hosts share (`shared.py`).
"""
# ruff: noqa: T201 - a program whose output is its voice

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from bisect import bisect_left
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REQUESTS_PER_S = 40.0
CLIENTS = 12
READY_AFTER_S = 0.4
LEAK_STEP_S = 0.25


def log(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)


def ready_replicas(deployment: dict[str, Any], at: float) -> int:
    """How many replicas of the shared deployment are ready: new ones a moment after they were asked for."""
    replicas: int = deployment["replicas"] if deployment["exists"] else 0
    settled = at >= deployment["scaled_at"] + READY_AFTER_S and not deployment["never_ready"]
    return replicas if settled else min(replicas, deployment["ready_before"])


def read_config(path: Path) -> dict[str, str]:
    """KEY=VALUE of each line. Raises ValueError when the gateway could not start with it, OSError."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    config = dict(line.split("=", 1) for line in lines)
    for key in ("WORKERS", "ORDER_TIMEOUT_MS"):
        if not config.get(key, "").isdigit():
            raise ValueError(f"configuration error: {key}={config.get(key)!r} is not a number")
    return config


class EngineBridge:
    """The gateway's end of its engine process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"engine not found: {path}")
        # -ISE: no user site, no environment; the engine starts in a few milliseconds.
        argv = [sys.executable, "-ISE", str(path), "--stdio"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    @property
    def connected(self) -> bool:
        return self.process.poll() is None


class Traffic:
    """Counters and latencies of simulated users, brought up to date whenever somebody looks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.random = random.Random()
        self.until = time.monotonic()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.owed = 0.0

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        self.requests[method, path, status] += 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds

    def catch_up(self, faults: dict[str, Any]) -> None:
        count = int((time.monotonic() - self.until) * REQUESTS_PER_S)
        self.until += count / REQUESTS_PER_S
        share = max(faults.get("error_share", 0), faults.get("api_error_share", 0))
        for _ in range(min(count, 100_000)):
            # Spread evenly, so that a second's sample shows the share and not chance.
            self.owed += share
            failed = self.owed >= 1
            self.owed -= failed
            method, path = self.random.choice((("GET", "/api/orders_state"), ("POST", "/api/order")))
            latency = self.random.lognormvariate(-5, 0.5) + faults.get("delay_ms", 0) / 1000
            self.observe(method, path, 500 if failed else 200, latency)


class Gateway(ThreadingHTTPServer):
    """The HTTP server and what it knows."""

    # The supervisor keeps the port bound while the gateway is down, so that nobody else can take it.
    allow_reuse_port = True
    daemon_threads = True

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.started = time.time()
        self.traffic = Traffic()
        self.frozen: bytes | None = None
        self.release = Path(__file__).resolve().parent
        broken = self.release / "BROKEN"
        self.broken: dict[str, Any] = json.loads(broken.read_text()) if broken.exists() else {}
        if self.broken.get("how") == "exit":
            raise RuntimeError(f"release {self.release.name}: unsupported wire version 7 of the order store")
        self.config = read_config(Path(args.config))
        self.leaked: list[bytearray] = []
        self.last_price = (61250.0, time.time())
        self.market_errors = 0
        self.said_at = 0.0
        self.bridge = EngineBridge(Path(args.engine))
        self.orders = [
            {
                "client_order_id": f"web-{int(self.started * 1000) + i}",
                "symbol": "BTCUSDT",
                "side": ("BUY", "SELL")[i % 2],
                "order_type": "LIMIT",
                "order_qty": 0.01 * (i + 1),
                "limit_price": 61000.0 + i,
                "venue_order_id": None,
                "status": "PENDING",
                "reason": None,
                "executed_qty": 0.0,
                "avg_price": None,
                "last_ts_ns": int(self.started * 1e9),
            }
            for i in range(args.orders)
        ]
        super().__init__((args.bind, args.port), Handler)

    def faults(self) -> dict[str, Any]:
        """What is wrong right now: the file of faults, and what release, configuration and others add to it."""
        faults: dict[str, Any] = json.loads(Path(self.args.faults).read_text())
        shared = json.loads(Path(self.args.shared).read_text())
        database, delay_ms = shared["database"], faults.get("delay_ms", 0)
        if self.broken.get("how") == "unhealthy":
            faults["down"] = "order store: unsupported wire version 7"
        if self.broken.get("how") == "errors":
            faults["api_error_share"] = self.broken["share"]
        if self.config["WORKERS"] == "0":
            faults["down"] = "configuration: WORKERS=0, no worker serves requests"
        if database["lost"] and database["in_recovery"]:
            host = database["primary"]
            faults["down"] = f'database: connection to server at "{host}", port 5432 failed: Connection refused'
        load, leak = faults.get("overload"), faults.get("leak")
        if load and ready_replicas(shared["deployment"], time.time()) < load["needs"]:
            delay_ms += load["ms"]
        if leak:
            delay_ms += leak["ms"] * len(self.leaked) / leak["mib"]
        return faults | {"delay_ms": delay_ms} if delay_ms else faults

    def reload(self, *_: object) -> None:
        """SIGHUP: read the configuration again; one that cannot be used changes nothing."""
        try:
            self.config = read_config(Path(self.args.config))
        except (ValueError, OSError) as error:
            return log(f"[CONFIG] not reloaded: {error}")
        return log("[CONFIG] reloaded")

    def die_late(self) -> None:
        """What a release does that runs into its own defect after a while."""
        log(f"[ERROR] release {self.release.name}: order store corrupt after its first flush, giving up")
        os._exit(1)

    def leak(self) -> None:
        """Grow as the fault says, for as long as this process lives."""
        while True:
            time.sleep(LEAK_STEP_S)
            fault = self.faults().get("leak")
            if fault and len(self.leaked) < fault["mib"]:
                more = -(-fault["mib"] * LEAK_STEP_S // fault["over_s"])
                # Every page is written: only then is it resident.
                self.leaked += [bytearray(b"x") * 2**20 for _ in range(int(min(more, fault["mib"])))]

    def feed(self, faults: dict[str, Any]) -> None:
        """The market's newest price, or one more error of the exchange."""
        if "exchange" not in faults:
            self.last_price = (self.last_price[0] + random.uniform(-5, 5), time.time())
            return
        self.market_errors += 1
        self.say('event: error data: {"type": "error", "message": "market_source_error"}')

    def say(self, line: str) -> None:
        """Log what fails again and again, but not more than once a second."""
        if time.monotonic() - self.said_at > 1:
            self.said_at = time.monotonic()
            log(line)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        print("-" * 40, file=sys.stderr)
        traceback.print_exc()
        print("-" * 40, file=sys.stderr, flush=True)

    def metrics(self, faults: dict[str, Any]) -> str:
        prefix, traffic = self.args.prefix, self.traffic
        name = f"{prefix}_http_request_duration_seconds"
        with traffic.lock:
            requests, buckets, seconds = dict(traffic.requests), list(traffic.buckets), traffic.seconds
        errors = sum(count for (_, _, status), count in requests.items() if status >= 500)
        lines = [f"# TYPE {prefix}_http_requests_total counter"]
        lines += [
            f'{prefix}_http_requests_total{{method="{method}",endpoint="{path}",status="{status}"}} {count}'
            for (method, path, status), count in sorted(requests.items())
        ]
        lines += [
            f"# TYPE {prefix}_errors_total counter",
            f'{prefix}_errors_total{{type="http_5xx",component="gateway"}} {errors}',
            f"# TYPE {name} histogram",
        ]
        # Little's law: as many are in flight as arrive while one is served.
        in_flight = round(REQUESTS_PER_S * (0.007 + faults.get("delay_ms", 0) / 1000))
        total = 0
        for bound, count in zip((*BUCKETS_S, "+Inf"), buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines += [
            f"{name}_sum {seconds:.6f}",
            f"{name}_count {total}",
            f"# TYPE {prefix}_gateway_uptime_seconds gauge",
            f"{prefix}_gateway_uptime_seconds {time.time() - self.started:.3f}",
            f"# TYPE {prefix}_engine_running gauge",
            f"{prefix}_engine_running {int(self.bridge.connected)}",
            f"# TYPE {prefix}_http_requests_in_flight gauge",
            f"{prefix}_http_requests_in_flight {in_flight}",
            f"# TYPE {prefix}_sse_clients gauge",
            f"{prefix}_sse_clients {CLIENTS}",
            f"# TYPE {prefix}_websocket_connected gauge",
            f"{prefix}_websocket_connected {int('exchange' not in faults)}",
            f"# TYPE {prefix}_exchange_api_errors_total counter",
            f'{prefix}_exchange_api_errors_total{{exchange="binance",error_type="timeout"}} {self.market_errors}',
        ]
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0 like the original: each answer closes its connection."""

    server: Gateway

    def log_message(self, *_args: object) -> None:
        """The original writes no access log."""

    def answer(self, status: int, body: object, content_type: str = "application/json", **headers: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)
        with self.server.traffic.lock:
            self.server.traffic.observe(self.command, self.path, status, time.monotonic() - self.began)

    def do_GET(self) -> None:
        self.began = time.monotonic()
        gateway, faults = self.server, self.server.faults()
        down = faults.get("down")
        if down:
            gateway.say(f"[ERROR] {down}")
            faults["api_error_share"] = 1
        with gateway.traffic.lock:
            gateway.traffic.catch_up(faults)
            gateway.feed(faults)
        if retry_after := faults.get("rate_limited"):
            return self.answer(429, {"error": "rate_limit_exceeded"}, Retry_After=retry_after)
        if self.path == "/metrics":
            return self.metrics(faults)
        time.sleep(faults.get("delay_ms", 0) / 1000)
        if gateway.traffic.random.random() < faults.get("error_share", 0):
            return self.answer(500, {"error": "internal_error"})
        status = 503 if down else faults.get("health_status", 200)
        health = {"ok": status == 200} | ({"error": down} if down else {})
        if self.path == "/health":
            return self.answer(status, health)
        if self.path == "/api/health":
            return self.answer(status, health | {"engine": {"connected": gateway.bridge.connected}})
        if down:
            return self.answer(503, {"error": down})
        if self.path == "/api/orders_state":
            return self.answer(200, {"items": gateway.orders})
        if gateway.traffic.random.random() < faults.get("api_error_share", 0):
            return self.answer(500, {"error": "internal_error"})
        if self.path == "/api/market":
            price, at = gateway.last_price
            return self.answer(200, {"symbol": "BTCUSDT", "price": price, "ts_ns": int(at * 1e9)})
        if self.path == "/api/config":
            return self.answer(200, gateway.config | {"user_stream_connected": "exchange" not in faults})
        if self.path == "/version":
            return self.answer(
                200, {"version": gateway.release.name, "pid": os.getpid(), "started_at": gateway.started}
            )
        if self.path.startswith("/api/"):
            return self.answer(404, b"<html><h1>404 Not Found</h1></html>", "text/html")
        # Everything else is the user interface's index page, as in the original: a 200 alone proves nothing.
        return self.answer(200, b"<!doctype html><html><title>Gateway</title></html>", "text/html")

    def metrics(self, faults: dict[str, Any]) -> None:
        gateway, fault = self.server, faults.get("metrics")
        if fault == "no_reply":
            gateway.bridge.is_running()  # type: ignore[attr-defined] # the original's defect, logged for real
        if fault == "html":
            return self.answer(200, b"<!doctype html><html><title>Sign in</title></html>", "text/html")
        if fault == "garbage":
            return self.answer(200, b'{le="\xff\xfe 1e999 }} NaN\n# TYPE\n\x00 total -5 {', "text/plain")
        body = gateway.metrics(faults).encode()
        if fault == "frozen":
            body = gateway.frozen = gateway.frozen or body
        return self.answer(200, body, "text/plain; version=0.0.4")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, help="path of the engine's program")
    parser.add_argument("--prefix", default="gateway", help="prefix of the metric names")
    parser.add_argument("--faults", required=True, help="path of the JSON file of faults")
    parser.add_argument("--config", required=True, help="path of the configuration")
    parser.add_argument("--shared", required=True, help="path of the JSON file of what all hosts share")
    parser.add_argument("--orders", type=int, default=0, help="orders in memory at the start")
    args = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        gateway = Gateway(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    signal.signal(signal.SIGHUP, gateway.reload)
    threading.Thread(target=gateway.leak, daemon=True).start()
    if gateway.broken.get("how") == "late":
        threading.Timer(gateway.broken["late_s"], gateway.die_late).start()
    threading.Thread(target=lambda: sys.stdin.read() or os._exit(0), daemon=True).start()
    log(f"[AUDIT] Gateway listening on http://{args.bind}:{args.port}")
    log(f"[AUDIT] Engine started: pid={gateway.bridge.process.pid}")
    gateway.serve_forever()


if __name__ == "__main__":
    main()
