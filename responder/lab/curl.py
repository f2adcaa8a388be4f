"""The stand-in for curl: a plain HTTP GET with the options that a probe uses and curl's own exit statuses.

See curl(1), "EXIT CODES". The names localhost and 127.0.0.1 mean the host's own address, as they would on
a machine of its own.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

USAGE, PROTOCOL, RESOLVE, CONNECT, PARTIAL, TIMEOUT, EMPTY, RECEIVE, TOO_LARGE = 2, 1, 6, 7, 18, 28, 52, 56, 63
VALUED = {"-m": "max_time", "--max-time": "max_time", "--connect-timeout": "connect_timeout"}
VALUED |= {"-w": "write_out", "--write-out": "write_out", "--max-filesize": "max_filesize"}
VALUED |= {"-o": "output", "--output": "output", "--noproxy": "no_proxy"}
FLAGS = {"-s": "silent", "--silent": "silent", "-S": "show_error", "--show-error": "show_error"}
FLAGS |= {"-i": "include", "--include": "include", "-f": "fail", "--fail": "fail", "-q": "no_config"}
FLAGS |= {"-g": "globoff", "--globoff": "globoff", "-N": "no_buffer"}


class CurlError(Exception):
    """A failed transfer: its exit status and curl's words for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_options(argv: list[str]) -> tuple[dict[str, str], str]:
    """Options by name and the URL. Raises CurlError for what the stand-in does not know."""
    options: dict[str, str] = {}
    urls: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            urls += words
        elif word.startswith("--") or not word.startswith("-"):
            if word in FLAGS:
                options[FLAGS[word]] = "1"
            elif word in VALUED:
                options[VALUED[word]] = next(words, "")
            elif word == "--url":
                urls.append(next(words, ""))
            elif word.startswith("--"):
                raise CurlError(USAGE, f"option {word}: is unknown")
            else:
                urls.append(word)
        else:
            letters = word[1:]
            while letters:  # -sSim5 is -s -S -i -m 5
                letter, letters = f"-{letters[0]}", letters[1:]
                if letter in FLAGS:
                    options[FLAGS[letter]] = "1"
                elif letter in VALUED:
                    options[VALUED[letter]] = letters or next(words, "")
                    break
                else:
                    raise CurlError(USAGE, f"option {letter}: is unknown")
    if len(urls) != 1:
        raise CurlError(USAGE, "no URL specified" if not urls else "the stand-in takes one URL")
    return options, urls[0]


class Transfer:
    """One GET. Body and, when asked, head go to `out` as they come."""

    def __init__(self, options: dict[str, str], url: str, own_address: str, out: Callable[[bytes], None]):
        self.options, self.out = options, out
        if "://" not in url:
            url = f"http://{url}"
        self.url = urlsplit(url)
        if self.url.scheme != "http":
            raise CurlError(PROTOCOL, f'Protocol "{self.url.scheme}" not supported or disabled in libcurl')
        host = self.url.hostname or ""
        self.address = own_address if host in ("localhost", "127.0.0.1") else host
        self.port = self.url.port or 80
        self.began = time.monotonic()
        self.deadline = self.began + float(options.get("max_time") or 300)
        self.status = 0
        self.received = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def run(self) -> None:
        """Raises CurlError when the transfer does not come to its proper end."""
        with self.connect() as connection:
            try:
                self.transfer(connection)
            except TimeoutError as error:
                words = f"Operation timed out after {self.elapsed_s * 1000:.0f} milliseconds"
                raise CurlError(TIMEOUT, f"{words} with {self.received} bytes received") from error
            except ConnectionError as error:
                raise CurlError(RECEIVE, "Recv failure: Connection reset by peer") from error

    def connect(self) -> socket.socket:
        try:
            ipaddress.ip_address(self.address)
        except ValueError as error:
            # The lab has no name service, and none of the machine's is asked: nothing leaves loopback.
            raise CurlError(RESOLVE, f"Could not resolve host: {self.address}") from error
        limit = min(float(self.options.get("connect_timeout") or 300), self.deadline - time.monotonic())
        try:
            return socket.create_connection((self.address, self.port), timeout=max(limit, 0.001))
        except TimeoutError as error:
            milliseconds = f"{self.elapsed_s * 1000:.0f}"
            raise CurlError(TIMEOUT, f"Connection timed out after {milliseconds} milliseconds") from error
        except OSError as error:
            where = f"{self.url.hostname} port {self.port} after {self.elapsed_s * 1000:.0f} ms"
            raise CurlError(CONNECT, f"Failed to connect to {where}: Couldn't connect to server") from error

    def receive(self, connection: socket.socket) -> bytes:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        return connection.recv(65536)

    def transfer(self, connection: socket.socket) -> None:
        path = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        agent = "User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.url.netloc}\r\n{agent}".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self.receive(connection)
            if not chunk and not data:
                raise CurlError(EMPTY, "Empty reply from server")
            if not chunk:
                break
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        self.status = int(match[1]) if (match := re.match(rb"HTTP/[\d.]+ (\d{3})", head)) else 0
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        expected = int(length[1]) if length else None
        most = int(self.options.get("max_filesize") or 0)
        if most and expected is not None and expected > most:
            raise CurlError(TOO_LARGE, "Maximum file size exceeded")
        if "fail" in self.options and self.status >= 400:
            raise CurlError(22, f"The requested URL returned error: {self.status}")
        if "include" in self.options:
            self.out(head + b"\r\n\r\n")
        while body or expected is None or self.received < expected:
            self.received += len(body)
            self.out(body)
            if most and self.received > most:
                raise CurlError(TOO_LARGE, "Exceeded the maximum allowed file size")
            if expected is not None and self.received >= expected:
                return
            body = self.receive(connection)
            if not body:
                break
        if expected is not None and self.received < expected:
            left = expected - self.received
            raise CurlError(PARTIAL, f"transfer closed with {left} bytes remaining to read")

    def write_out(self) -> bytes:
        """The text of -w, with the variables that a probe asks for."""
        values = {
            "http_code": f"{self.status:03d}",
            "response_code": f"{self.status:03d}",
            "time_total": f"{self.elapsed_s:.6f}",
            "size_download": str(self.received),
        }
        text = self.options.get("write_out", "").replace("\\n", "\n").replace("\\t", "\t")
        return re.sub(r"%\{(\w+)\}", lambda match: values.get(match[1], ""), text).encode()


def curl(argv: list[str], own_address: str, out: Callable[[bytes], None], err: Callable[[bytes], None]) -> int:
    """Run the stand-in; gives curl's exit status."""
    try:
        options, url = parse_options(argv)
        # Without -o only: nothing on a host needs curl to write files but for throwing a body away.
        sink = (lambda _: None) if options.get("output") == "/dev/null" else out
        transfer = Transfer(options, url, own_address, sink)
    except (CurlError, ValueError) as error:
        err(f"curl: {error}\n".encode())
        return error.status if isinstance(error, CurlError) else 3
    status = 0
    try:
        transfer.run()
    except CurlError as error:
        status = error.status
        if "silent" not in options or "show_error" in options:
            err(f"curl: ({status}) {error}\n".encode())
    out(transfer.write_out())
    return status
