import Base
import Glibc
import RingIO
import Testing

private let kind = OperationTag.firstServerKind

/// Connects, accepts through the ring, sends one byte; the accepted end's peer name.
private func greet(_ listener: Listener, times: Int) throws -> String {
  var ring = try Ring()
  var batch = CompletionBatch()
  var clients: [Int32] = []
  var accepted: [Int32] = []
  let file = ring.install(listener.descriptor)
  ring.accept(file, OperationTag(kind: kind, slot: 1))
  for _ in 0..<times {
    ring.submit()
    clients.append(try Socket.connect(to: listener.address))
    ring.submitAndWait(atMost: 2_000_000_000)
    while ring.drain(&batch) > 0 {
      for i in 0..<batch.count {
        #expect(batch[i].result >= 0)
        accepted.append(batch[i].result)
        if !batch[i].hasMore { ring.accept(file, OperationTag(kind: kind, slot: 1)) }
      }
    }
  }
  #expect(accepted.count == times)
  let name = accepted.first.map(Socket.peerName) ?? ""
  for (client, server) in zip(clients, accepted) {
    var byte: UInt8 = 42
    #expect(send(client, &byte, 1, 0) == 1)
    byte = 0
    #expect(recv(server, &byte, 1, 0) == 1 && byte == 42)
    #expect(fcntl(server, F_GETFD) & FD_CLOEXEC != 0)
    close(client)
    close(server)
  }
  return name
}

/// Why listening is refused; nil when it is not.
private func refusal(_ address: SocketAddress) -> SystemError? {
  do throws(SystemError) {
    for listener in try Listener.open(address, patience: Milliseconds(50)) { listener.close() }
    return nil
  } catch {
    return error
  }
}

@Suite(.serialized) struct ListenerTests {
  @Test func unixSocketsAreOursAlone() throws {
    let directory = TemporaryDirectory()
    let path = directory.path + "/socket"
    let listener = try Listener.open(.unix(path: path))[0]
    var facts = stat()
    #expect(stat(path, &facts) == 0 && facts.st_mode & 0o777 == 0o600)
    #expect(try greet(listener, times: 3).hasPrefix("uid \(geteuid()), process \(getpid())"))
    let rival = refusal(.unix(path: path))
    #expect(rival?.code == EADDRINUSE)
    listener.close()
    // Left behind by a dead server: replaced. Somebody's file: not.
    #expect(access(path, F_OK) == 0)
    let next = try Listener.open(.unix(path: path), permissions: UnixPermissions(mode: 0o666))[0]
    #expect(stat(path, &facts) == 0 && facts.st_mode & 0o777 == 0o666)
    next.close(removingPath: true)
    #expect(access(path, F_OK) == -1)
    close(open(path, O_CREAT | O_RDWR, 0o600))
    #expect(refusal(.unix(path: path))?.code == EEXIST)
    #expect(access(path, F_OK) == 0)
    let long = directory.path + "/" + String(repeating: "x", count: 108)
    #expect(refusal(.unix(path: long))?.code == ENAMETOOLONG)
  }

  @Test func tcpOnLoopback() throws {
    let listeners = try Listener.open(.tcp(host: "127.0.0.1", port: 0))
    let listener = try #require(listeners.first)
    #expect(try greet(listener, times: 3).hasPrefix("127.0.0.1:"))
    #expect(refusal(listener.address)?.code == EADDRINUSE)
    listener.close()
    // The ring above may hold it a little longer.
    try Listener.open(listener.address)[0].close()
    #expect(refusal(.tcp(host: "no-such-host.invalid", port: 1)) != nil)
  }
}
