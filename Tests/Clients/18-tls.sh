#!/bin/bash
# Encryption: certificates on both sides, a list of clients, shared keys; off, allowed, required;
# libnbd, qemu-img and nbd-client; and what came before STARTTLS counts for nothing behind it.
source "$(dirname "$0")/common.bash"
bounded 240 "$@"
ours || { say "only our server is asked"; exit 0; }

pki=$work/pki
mkdir "$pki" "$pki"/{alice,bob,eve,mallory,liar}

# authority NAME: a certificate authority. signed AUTHORITY FOLDER NAME EXTENSIONS: a certificate.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign \
    -keyout "$pki/$1.key" -out "$pki/$1.pem" 2>/dev/null
}
signed() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/O=Test/CN=$3" \
    -keyout "$pki/$2-key.pem" -out "$pki/request.pem" 2>/dev/null
  printf '%s\n' "$4" >"$pki/extensions"
  openssl x509 -req -in "$pki/request.pem" -CA "$pki/$1.pem" -CAkey "$pki/$1.key" \
    -CAcreateserial -days 2 -extfile "$pki/extensions" -out "$pki/$2-cert.pem" 2>/dev/null
}
authority house
authority stranger
signed house server localhost \
  "subjectAltName=DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth"
signed house alice/client alice extendedKeyUsage=clientAuth
signed house bob/client bob extendedKeyUsage=clientAuth
signed house eve/client eve extendedKeyUsage=serverAuth
signed house liar/client $'liar"\e[2J\r\n2026-01-01T00:00:00Z notice: all is well' \
  extendedKeyUsage=clientAuth
signed stranger mallory/client mallory extendedKeyUsage=clientAuth
for client in alice bob eve mallory liar; do
  cp "$pki/house.pem" "$pki/$client/ca-cert.pem"
done
printf 'carol:%s\ndave:%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" >"$pki/keys"
chmod 600 "$pki/keys"

port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tcp=127.0.0.1:$port
volume_size=1GiB
tier only disk 1GiB
format
cp "$config" "$work/plain.toml"
probe_uri="nbd://$tcp"

# with_tls LINES: the configuration with this [tls] table.
with_tls() {
  { cat "$work/plain.toml"; printf '[tls]\n%s\n' "$1"; } >"$config"
}

# uri_of CLIENT: certificates; key_of NAME: a shared key.
uri_of() { printf 'nbds://localhost:%s/?tls-certificates=%s' "$port" "$pki/$1"; }
key_of() { printf 'nbds://%s@127.0.0.1:%s/?tls-psk-file=%s' "$1" "$port" "$pki/keys"; }
let_in() { nbdinfo --size "$1" >/dev/null 2>"$work/client.log" ||
  fail "$1 is not let in: $(cat "$work/client.log")"; }
kept_out() { ! nbdinfo --size "$1" >/dev/null 2>&1 || fail "$1 is let in"; }
# kept_out_of_openssl CLIENT: a client that shows whatever certificate it has.
kept_out_of_openssl() {
  python3 - "$port" "$pki" "$1" <<'PYTHON'
import socket, ssl, struct, sys
port, pki, client = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=pki + "/house.pem")
context.load_cert_chain(f"{pki}/{client}/client-cert.pem", f"{pki}/{client}/client-key.pem")
peer = socket.create_connection(("127.0.0.1", port))
peer.recv(18)
peer.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 5, 0))
assert struct.unpack(">QIII", peer.recv(20))[2] == 1
try:
    peer = context.wrap_socket(peer, server_hostname="localhost")
    peer.sendall(struct.pack(">QII", 0x49484156454F5054, 3, 0))
    sys.exit(f"{client} is let in: {peer.recv(100)}" if peer.recv(100) else 0)
except (ssl.SSLError, ConnectionResetError):
    pass
PYTHON
}
certificates="certificate = \"$pki/server-cert.pem\"
key = \"$pki/server-key.pem\""
clients="authority = \"$pki/house.pem\""

say "no [tls]: STARTTLS is not there; off: it is refused; and plaintext goes on"
serve
kept_out "$(uri_of alice)"
let_in "nbd://$tcp"
stop_server
with_tls "mode = \"off\""
serve
kept_out "$(uri_of alice)"
let_in "nbd://$tcp"
stop_server

say "allowed: both"
with_tls "mode = \"allowed\"
$certificates"
serve
let_in "nbd://$tcp"
let_in "$(uri_of alice)"
stop_server

say "required: a certificate of the authority, on the list, and nobody else"
probe_uri=$(uri_of alice)
with_tls "mode = \"required\"
$certificates
$clients
clients = [\"CN=alice,O=Test\", \"CN=eve,O=Test\", \"carol\"]
shared_keys = \"$pki/keys\""
serve
kept_out "nbd://$tcp"
kept_out "$uri"
let_in "$(uri_of alice)"
let_in "$(key_of carol)"
kept_out "$(uri_of bob)"
said 'the client "CN=bob,O=Test" is not one of tls.clients'
# A name that would write lines of its own.
kept_out "$(uri_of liar)"
said '2J??2026-01-01T00:00:00Z notice: all is well,O=Test" is not one of tls.clients'
! grep -q '^2026-01-01' "$work/server.log" || fail "the log has a forged line"
! grep -q '[[:cntrl:]]' "$work/server.log" || fail "the log has control characters"
kept_out "$(uri_of mallory)"
said "TLS handshake failed: Certificate is required"
# libnbd shows no certificate of an authority that was not asked for; this client does.
kept_out_of_openssl mallory
# A certificate for servers opens nothing, although its name is on the list.
kept_out_of_openssl eve
said "TLS handshake failed: Error in the certificate verification"
kept_out "$(key_of dave)"
said 'the client "dave" is not one of tls.clients'
sed 's/^carol:.*/carol:00112233445566778899aabbccddeeff/' "$pki/keys" >"$pki/wrong"
kept_out "nbds://carol@127.0.0.1:$port/?tls-psk-file=$pki/wrong"
kept_out "nbds://localhost:$port/?tls-certificates=$pki/nobody"

say "a digest on the list, and a certificate that was revoked"
digest=$(openssl x509 -in "$pki/bob/client-cert.pem" -noout -fingerprint -sha256 | cut -d= -f2)
stop_server
probe_uri=$(uri_of bob)
with_tls "mode = \"required\"
$certificates
$clients
clients = [\"sha256:$digest\"]"
serve
let_in "$(uri_of bob)"
kept_out "$(uri_of alice)"
stop_server
(
  cd "$pki"
  : >index.txt
  printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ndefault_md=sha256\n' >ca.conf
  printf 'default_crl_days=2\n' >>ca.conf
  openssl ca -config ca.conf -keyfile house.key -cert house.pem -revoke bob/client-cert.pem
  openssl ca -config ca.conf -keyfile house.key -cert house.pem -gencrl -out revoked.pem
) >/dev/null 2>&1
probe_uri=$(uri_of alice)
with_tls "mode = \"required\"
$certificates
$clients
revoked = \"$pki/revoked.pem\""
serve
let_in "$(uri_of alice)"
kept_out "$(uri_of bob)"

say "data, many requests at once, in both directions"
if [ -x "$THERMOCLINE_LOAD" ]; then
  "$THERMOCLINE_LOAD" model --uri "$(uri_of alice)" --seconds 8 || fail "the model"
fi
/usr/bin/python3 - "$(uri_of alice)" <<'PYTHON'
import nbd, sys
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
h.zero(h.get_size(), 0)
PYTHON
head -c 200M /dev/urandom >"$work/data"
nbdcopy "$work/data" "$(uri_of alice)"
nbdcopy "$(uri_of alice)" "$work/back"
cmp -n "$(stat -c %s "$work/data")" "$work/data" "$work/back" || fail "nbdcopy: other data"
rm "$work/back"
creds="tls-creds-x509,id=t,endpoint=client,dir=$pki/alice"
qemu-img compare --object "$creds" --image-opts \
  "driver=nbd,host=localhost,port=$port,tls-creds=t" "file.filename=$work/data,driver=raw" \
  >"$work/compare.log" || grep -q "Images are identical" "$work/compare.log" ||
  fail "qemu-img: $(cat "$work/compare.log")"
nbd-client -l localhost "$port" -certfile "$pki/alice/client-cert.pem" \
  -keyfile "$pki/alice/client-key.pem" -cacertfile "$pki/house.pem" -tlshostname localhost \
  >"$work/nbd-client.log" 2>&1 && grep -q '^test' "$work/nbd-client.log" ||
  fail "nbd-client: $(cat "$work/nbd-client.log")"

say "what comes before and behind STARTTLS in one packet counts for nothing"
python3 - "$root/Tests/Wire" "$port" "$pki" <<'PYTHON'
import socket, ssl, struct, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import secured
port, pki = int(sys.argv[2]), sys.argv[3]
OPTION = 0x49484156454F5054
context = ssl.create_default_context(cafile=pki + "/house.pem")
context.load_cert_chain(pki + "/alice/client-cert.pem", pki + "/alice/client-key.pem")


def option(number, data=b""):
    return struct.pack(">QII", OPTION, number, len(data)) + data


def exactly(peer, count):
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        assert part, "closed"
        data += part
    return data


def reply(peer):
    magic, asked, kind, length = struct.unpack(">QIII", exactly(peer, 20))
    assert magic == 0x3E889045565A9
    return asked, kind, exactly(peer, length)


def begin():
    peer = socket.create_connection(("127.0.0.1", port))
    exactly(peer, 18)
    peer.sendall(struct.pack(">I", 3))
    return peer


# Structured replies are refused before TLS, and what is asked for then is not remembered.
peer = begin()
peer.sendall(option(8))
assert reply(peer)[:2] == (8, 0x80000005)
# An option smuggled in with STARTTLS is neither answered nor obeyed.
peer.sendall(option(5) + option(3))
assert reply(peer)[:2] == (5, 1)
peer = context.wrap_socket(peer, server_hostname="localhost")
peer.sendall(option(5))
asked, kind, _ = reply(peer)
assert (asked, kind) == (5, 0x80000003), "STARTTLS comes once"
peer.sendall(option(10, struct.pack(">I", 0) + struct.pack(">I", 1) +
                    struct.pack(">I", 15) + b"base:allocation"))
assert reply(peer)[:2] == (10, 0x80000003), "no structured replies were chosen"
peer.sendall(option(6, struct.pack(">IH", 0, 0)))
while reply(peer)[1] != 1:
    pass
peer.close()

# Half a TLS handshake, garbage, and a good one cut off: the server goes on.
for what in (b"\x16\x03\x01\x02\x00", b"garbage" * 100, b""):
    peer = begin()
    peer.sendall(option(5))
    reply(peer)
    peer.sendall(what)
    if what.startswith(b"g"):
        peer.settimeout(5)
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass
    peer.close()
# A record that was changed on its way closes its connection.
peer = begin()
peer.sendall(option(5))
reply(peer)
raw = peer
tls, outgoing = secured(raw, context)
raw.sendall(outgoing.read())
tls.write(option(3))
record = bytearray(outgoing.read())
record[-1] ^= 1
raw.sendall(record)
raw.settimeout(5)
try:
    while raw.recv(4096):
        pass
except ConnectionResetError:
    pass
PYTHON
said "an encrypted record is wrong"

say "a client that wants small records, and one that changes its keys with a request behind it"
python3 - "$port" "$pki" <<'PYTHON'
import ctypes, socket, struct, sys
port, pki = int(sys.argv[1]), sys.argv[2].encode()
g = ctypes.CDLL("libgnutls.so.30")
g.gnutls_record_send.restype = g.gnutls_record_recv.restype = ctypes.c_ssize_t
void, size = ctypes.c_void_p, ctypes.c_size_t
g.gnutls_transport_set_int2.argtypes = [void, ctypes.c_int, ctypes.c_int]
g.gnutls_record_send.argtypes = g.gnutls_record_recv.argtypes = [void, void, size]
g.gnutls_record_set_max_size.argtypes = [void, size]


class Client:
    def __init__(self, small):
        self.socket = peer = socket.create_connection(("127.0.0.1", port))
        peer.recv(18)
        peer.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 5, 0))
        assert struct.unpack(">QIII", peer.recv(20))[2] == 1
        peer.settimeout(None)
        self.credentials, self.session = void(), void()
        g.gnutls_certificate_allocate_credentials(ctypes.byref(self.credentials))
        assert g.gnutls_certificate_set_x509_key_file(
            self.credentials, pki + b"/alice/client-cert.pem", pki + b"/alice/client-key.pem", 1) == 0
        g.gnutls_init(ctypes.byref(self.session), 2)
        g.gnutls_priority_set_direct(self.session, b"NORMAL", None)
        g.gnutls_credentials_set(self.session, 1, self.credentials)
        if small:
            assert g.gnutls_record_set_max_size(self.session, 512) == 0
        g.gnutls_transport_set_int2(self.session, peer.fileno(), peer.fileno())
        assert g.gnutls_handshake(self.session) == 0
        self.send(struct.pack(">QIIIH", 0x49484156454F5054, 7, 6, 0, 0))
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            self.take(length)
            if kind == 1:
                break

    def send(self, data):
        at = 0
        while at < len(data):
            n = g.gnutls_record_send(self.session, data[at:], len(data) - at)
            assert n > 0, n
            at += n

    def take(self, count):
        data = b""
        while len(data) < count:
            buffer = ctypes.create_string_buffer(count - len(data))
            n = g.gnutls_record_recv(self.session, buffer, len(buffer))
            assert n > 0, n
            data += buffer.raw[:n]
        return data

    def ask(self, count):
        self.send(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, i, i * 65536, 65536)
                           for i in range(count)))

    def hear(self, count):
        for _ in range(count):
            assert struct.unpack(">IIQ", self.take(16))[:2] == (0x67446698, 0)
            self.take(65536)


small = Client(True)
for _ in range(10):
    small.ask(100)
    small.hear(100)
fresh = Client(False)
for _ in range(6):
    fresh.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    assert g.gnutls_session_key_update(fresh.session, 0) == 0
    fresh.ask(1)
    fresh.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    fresh.hear(1)
PYTHON

say "versions: 1.2 and 1.3, and none before; and the end is said"
python3 - "$root/Tests/Wire" "$port" "$pki" <<'PYTHON'
import os, socket, ssl, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
port, pki = int(sys.argv[2]), sys.argv[3]


def begin(oldest, newest):
    """In transmission, with a version from this one to that."""
    context = ssl.create_default_context(cafile=pki + "/house.pem")
    context.load_cert_chain(pki + "/alice/client-cert.pem", pki + "/alice/client-key.pem")
    # OpenSSL does not even offer the old ones on its usual level.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = oldest, newest
    w = Wire(("127.0.0.1", port))
    w.greet()
    assert w.ask(STARTTLS) == ["ACK"]
    # An end that is not said is an error then, and not just an end.
    w.socket = context.wrap_socket(
        w.socket, server_hostname="localhost", suppress_ragged_eofs=False)
    return w.enter()


versions = ssl.TLSVersion
for version, name in (versions.TLSv1_2, "TLSv1.2"), (versions.TLSv1_3, "TLSv1.3"):
    w = begin(version, version)
    assert w.socket.version() == name
    w.request(WRITE, 0, 512, payload=b"e" * 512)
    w.request(READ, 0, 512)
    w.request(DISC)
    assert w.answer()[0] == "done" and w.answer(512)[1][0][2] == b"e" * 512, name
    assert w.socket.recv(1) == b"", name
    # The end of sending may come with DISC: what came before it is done and answered.
    for i in range(10):
        w = begin(version, version)
        data = bytes([i]) * 300_000
        w.request(WRITE, 1 << 20, len(data), payload=data)
        w.request(DISC)
        end = socket.socket(fileno=os.dup(w.socket.fileno()))
        end.shutdown(socket.SHUT_WR)
        if i % 2 == 0:
            assert w.answer()[0] == "done" and w.socket.recv(1) == b"", (name, i)
        end.close()
        w.socket.close()
        deadline = time.monotonic() + 10
        while begin(version, version).read(1 << 20, len(data)) != data:
            assert time.monotonic() < deadline, f"{name}: what came before DISC was not done"
for version in versions.TLSv1_1, versions.TLSv1:
    try:
        begin(versions.TLSv1, version)
        sys.exit(f"{version.name} is let in")
    except ssl.SSLError as error:
        # The server hears what is offered, and says so: it is not OpenSSL that does not want to.
        assert error.reason == "TLSV1_ALERT_PROTOCOL_VERSION", error
PYTHON
let_in "$(uri_of alice)"

say "a request and DISC, and a record behind them that ends everything"
held=$(find "/proc/$server/fd" | wc -l)
python3 - "$root/Tests/Wire" "$port" "$pki" <<'PYTHON'
import socket, ssl, struct, sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
port, pki = int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=pki + "/house.pem")
context.load_cert_chain(pki + "/alice/client-cert.pem", pki + "/alice/client-key.pem")
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    context.minimum_version = context.maximum_version = version
    for behind in b"\x17\x03\x03\x00\x20" + bytes(32), b"\x15\x03\x03\x00\x02\x02\x28", b"garbage":
        w = Wire(("127.0.0.1", port))
        w.greet()
        assert w.ask(STARTTLS) == ["ACK"]
        tls, outgoing = secured(w.socket, context)
        tls.write(struct.pack(">QII", IHAVEOPT, GO, len(export())) + export()
                  + b"".join(w.pack(READ, i << 20, 1 << 20) for i in range(3))
                  + w.pack(WRITE, 0, 4) + b"data" + w.pack(DISC))
        w.socket.sendall(outgoing.read() + behind)
        assert w.is_closed()
PYTHON
soon "none of them is left" '.server.connections == 0 and .memory.client_used_bytes == 0'
[ "$(find "/proc/$server/fd" | wc -l)" -le "$held" ] || fail "descriptors are left"
stop_server

say "shared keys beside a certificate: one of them is needed"
probe_uri=$(key_of carol)
with_tls "mode = \"required\"
$certificates
shared_keys = \"$pki/keys\""
serve
let_in "$(key_of carol)"
mkdir "$pki/psk"
cp "$pki/keys" "$pki/psk/keys.psk"
qemu-img info --image-opts "driver=nbd,host=localhost,port=$port,tls-creds=t" --object \
  "tls-creds-psk,id=t,endpoint=client,dir=$pki/psk,username=carol" >"$work/client.log" 2>&1 &&
  grep -q "virtual size: 1 GiB" "$work/client.log" ||
  fail "qemu-img with a shared key: $(cat "$work/client.log")"
kept_out "$(uri_of alice)"
said "the client \"a client without a certificate\" is not one of"
stop_server

say "wrong files are refused, by name"
for wrong in "certificate = \"$pki/nowhere.pem\"
key = \"$pki/server-key.pem\"|nowhere.pem" \
  "certificate = \"$pki/server-cert.pem\"
key = \"$pki/alice/client-key.pem\"|client-key.pem" \
  "$certificates
authority = \"$pki/keys\"|authority" \
  "shared_keys = \"$pki/house.pem\"|Line 1 of the shared keys" \
  "shared_keys = \"$pki/nowhere\"|nowhere"; do
  with_tls "mode = \"required\"
${wrong%|*}"
  refused "${wrong##*|}" "$THERMOCLINE" serve --config "$config"
done
"$THERMOCLINE" check --config "$work/plain.toml" >"$work/check.log" ||
  fail "check: $(cat "$work/check.log")"
