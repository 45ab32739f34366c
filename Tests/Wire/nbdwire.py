"""NBD, byte by byte: what a test needs to say the wrong thing, and to see what comes back.

Numbers have their names in the NBD project's doc/proto.md, section "Values". Nothing here checks
anything; `matrix` does."""

import socket
import ssl
import struct

IHAVEOPT = 0x49484156454F5054
OPTION_REPLY = 0x3E889045565A9
REQUEST, EXTENDED_REQUEST = 0x25609513, 0x21E41C71
SIMPLE, STRUCTURED, EXTENDED = 0x67446698, 0x668E33EF, 0x6E8A278C

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = 8, 9, 10, 11
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

REPLIES = {
    1: "ACK", 2: "SERVER", 3: "INFO", 4: "META_CONTEXT", 0x80000001: "UNSUP", 0x80000002: "POLICY",
    0x80000003: "INVALID", 0x80000004: "PLATFORM", 0x80000005: "TLS_REQD", 0x80000006: "UNKNOWN",
    0x80000007: "SHUTDOWN", 0x80000008: "BLOCK_SIZE_REQD", 0x80000009: "TOO_BIG",
    0x8000000A: "EXT_HEADER_REQD"}
ERRORS = {0: "done", 1: "EPERM", 5: "EIO", 12: "ENOMEM", 22: "EINVAL", 28: "ENOSPC",
          75: "EOVERFLOW", 95: "ENOTSUP", 108: "ESHUTDOWN"}
CHUNKS = {0: "NONE", 1: "DATA", 2: "HOLE", 5: "STATUS", 6: "STATUS_EXT", 0x8001: "ERROR",
          0x8002: "ERROR_OFFSET"}


class Closed(Exception):
    """The peer closed the connection."""


def export(name=b"", items=()):
    """The data of INFO and GO."""
    return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(items))
            + b"".join(struct.pack(">H", item) for item in items))


def queries(contexts, name=b"", count=None):
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return (struct.pack(">I", len(name)) + name
            + struct.pack(">I", len(contexts) if count is None else count)
            + b"".join(struct.pack(">I", len(c)) + c for c in contexts))


def secured(peer, context):
    """TLS behind STARTTLS, with its records in one's own hands: the session, which is written to, and
    what is then outgoing."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            return tls, outgoing
        except ssl.SSLWantReadError:
            peer.sendall(outgoing.read())
            incoming.write(peer.recv(65536))


class Wire:
    """One connection, to the path of a unix socket or to a host and a port."""

    def __init__(self, address, patience=10):
        if isinstance(address, tuple):
            self.socket = socket.create_connection(address, patience)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(patience)
            self.socket.connect(address)
        self.style = SIMPLE
        self.contexts = {}
        self.size = self.flags = None

    def close(self):
        self.socket.close()

    def send(self, data):
        """Sends; a peer that has closed already is found out by the next `take`."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def drip(self, data):
        """The same, a byte at a time."""
        for i in range(len(data)):
            self.send(data[i:i + 1])

    def take(self, count):
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionResetError:
                raise Closed
            if not piece:
                raise Closed
            data += piece
        return data

    def is_closed(self):
        """Waits for the peer to close, and drops what it still says."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except socket.timeout:
            return False
        return True

    # Handshake

    def greet(self, flags=3):
        magic, option, mine = struct.unpack(">QQH", self.take(18))
        self.send(struct.pack(">I", flags))
        return magic, option, mine

    def option(self, number, data=b"", magic=IHAVEOPT, length=None):
        self.send(struct.pack(">QII", magic, number, len(data) if length is None else length)
                  + data)

    def reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        if magic != OPTION_REPLY:
            raise ValueError(f"an option's reply begins with {magic:#x}")
        return kind, option, self.take(length)

    def replies(self):
        """All replies to one option, the last being ACK or an error."""
        found = []
        while True:
            kind, _, data = self.reply()
            found.append((REPLIES.get(kind, hex(kind)), data))
            if kind == 1 or kind & 0x80000000:
                return found

    def ask(self, number, data=b""):
        """Names of the replies to an option."""
        self.option(number, data)
        return [name for name, _ in self.replies()]

    def select(self, contexts, name=b""):
        self.option(SET_META, queries(contexts, name))
        found = self.replies()
        self.contexts = {data[4:]: struct.unpack(">I", data[:4])[0]
                         for kind, data in found if kind == "META_CONTEXT"}
        return found[-1][0]

    def go(self, style=SIMPLE, contexts=(), name=b""):
        """From the greeting to transmission."""
        self.greet()
        if style == STRUCTURED and self.ask(STRUCTURED_REPLY) != ["ACK"]:
            raise ValueError("no structured replies")
        if style == EXTENDED and self.ask(EXTENDED_HEADERS) != ["ACK"]:
            raise ValueError("no extended headers")
        self.style = style
        if contexts:
            self.select(contexts, name)
        return self.enter(name)

    def enter(self, name=b""):
        self.option(GO, export(name))
        for kind, data in self.replies():
            if kind == "INFO" and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])
        return self

    # Transmission

    def pack(self, command, offset=0, length=0, flags=0, cookie=7, magic=None):
        if self.style == EXTENDED:
            return struct.pack(
                ">IHHQQQ", magic or EXTENDED_REQUEST, flags, command, cookie, offset, length)
        return struct.pack(
            ">IHHQQI", magic or REQUEST, flags, command, cookie, offset, length)

    def request(self, command, offset=0, length=0, flags=0, cookie=7, payload=b"", magic=None):
        self.send(self.pack(command, offset, length, flags, cookie, magic) + payload)

    def message(self, length=0):
        """One message of a reply: its cookie, whether it is the last one, its error, and a chunk:
        kind, offset and data. A simple reply has `length` bytes behind it when it is no error, or
        as many as `length` says for its cookie."""
        magic = struct.unpack(">I", self.take(4))[0]
        if magic == SIMPLE:
            error, cookie = struct.unpack(">IQ", self.take(12))
            size = 0 if error else length(cookie) if callable(length) else length
            return cookie, True, error, ("SIMPLE", 0, self.take(size))
        offset = 0
        if magic == STRUCTURED:
            flags, kind, cookie, size = struct.unpack(">HHQI", self.take(16))
        elif magic == EXTENDED:
            flags, kind, cookie, offset, size = struct.unpack(">HHQQQ", self.take(28))
        else:
            raise ValueError(f"a reply begins with {magic:#x}")
        name, data = CHUNKS.get(kind, hex(kind)), self.take(size)
        error = struct.unpack(">I", data[:4])[0] if name.startswith("ERROR") else 0
        return cookie, flags & 1 == 1, error, (name, offset, data)

    def answers(self, cookies, length=0):
        """The whole answers to requests with these cookies, in whatever order they come: by
        cookie, the error's name and the chunks. `length` as for `message`."""
        found = {cookie: [0, []] for cookie in cookies}
        missing = set(found)
        while missing:
            cookie, is_last, error, chunk = self.message(length)
            if cookie not in missing:
                raise ValueError(f"cookie {cookie:#x} was not asked for, or is answered already")
            found[cookie][0] = found[cookie][0] or error
            found[cookie][1].append(chunk)
            if is_last:
                missing.remove(cookie)
        return {cookie: (ERRORS.get(error, str(error)), chunks)
                for cookie, (error, chunks) in found.items()}

    def answer(self, length=0, cookie=7):
        """The same of one request."""
        return self.answers([cookie], length)[cookie]

    def many(self, requests, at_once=64):
        """Carries out requests without data in their replies, so many at once. Each is a command,
        an offset, a length, flags and a payload."""
        for first in range(0, len(requests), at_once):
            part = requests[first:first + at_once]
            self.send(b"".join(
                self.pack(command, offset, length, flags, cookie=i) + payload
                for i, (command, offset, length, flags, payload) in enumerate(part)))
            for error, _ in self.answers(range(len(part))).values():
                if error != "done":
                    raise ValueError(f"one of many requests ended with {error}")

    def call(self, command, offset=0, length=0, flags=0, payload=b"", reads=None):
        """A request and the name of its error."""
        self.request(command, offset, length, flags, payload=payload)
        reads = length if command == READ else reads or 0
        return self.answer(reads if self.style == SIMPLE else 0)[0]

    def read(self, offset, length, flags=0):
        """The bytes of a READ, holes filled."""
        self.request(READ, offset, length, flags)
        error, chunks = self.answer(length)
        if error != "done":
            return error
        data = bytearray(length)
        for kind, _, bytes_ in chunks:
            if kind == "SIMPLE":
                return bytes(bytes_)
            if kind == "DATA":
                at = struct.unpack(">Q", bytes_[:8])[0] - offset
                data[at:at + len(bytes_) - 8] = bytes_[8:]
        return bytes(data)

    def write(self, offset, data, flags=0):
        flags |= PAYLOAD_LEN if self.style == EXTENDED else 0
        return self.call(WRITE, offset, len(data), flags, payload=data)

    def status(self, offset, length, flags=0, payload=b""):
        """A BLOCK_STATUS: its error, or a list of (length, flags) for each context."""
        self.request(BLOCK_STATUS, offset, len(payload) or length, flags, payload=payload)
        error, chunks = self.answer()
        if error != "done":
            return error
        found = {}
        for kind, _, data in chunks:
            if kind == "STATUS":
                found[struct.unpack(">I", data[:4])[0]] = list(struct.iter_unpack(">II", data[4:]))
            if kind == "STATUS_EXT":
                found[struct.unpack(">I", data[:4])[0]] = list(struct.iter_unpack(">QQ", data[8:]))
        return found
