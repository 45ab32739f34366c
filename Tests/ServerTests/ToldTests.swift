import Base
import FoundationEssentials
import Glibc
import NBDProtocol
import RingIO
import Server
import Testing

/// What a client was told holds for it, whatever is changed meanwhile.
@Suite(.serialized) struct ToldTests {
  /// No chunk is longer than the payload that was advertised to its client.
  @Test func payloadThatWasAdvertised() throws {
    let server = try TestServer(clientMemory: 64 << 20) {
      $0.advertisedPayload = 512 << 10
      $0.acceptedPayload = 4 << 20
    }
    let old = try Client(server, .structured)
    #expect(old.write(0, [UInt8](repeating: 7, count: 2 << 20)).error == 0)
    #expect(old.read(0, 2 << 20).dataChunks == 4)
    var changes = ServerChanges()
    changes.limits.acceptedPayload = 3 << 20
    server.mailbox.change(changes)
    eventually("new clients are told of more") {
      let new = try? Client(server, .structured)
      return new?.read(0, 2 << 20).dataChunks == 2
    }
    #expect(old.read(0, 2 << 20).dataChunks == 4)
    // And it may write as much as it could before.
    #expect(old.write(0, [UInt8](repeating: 8, count: 4 << 20)).error == 0)
    old.close()
    server.expectIdle()
  }

  /// Peers that hung up on their way from one server to the next, more than one turn looks at:
  /// their changes are not made, unless they have said DISC.
  @Test(arguments: [false, true]) func hangUpBetweenServers(saysDisconnect: Bool) throws {
    let control = VolumeControl()
    let ends = try (0..<50).map { _ in try Socket.pair() }
    let list = try ends.map { try handed($0.1, saysDisconnect) }
    for end in ends { shutdown(end.0, Int32(SHUT_WR)) }
    let server = try TestServer(control: control) { configuration, listeners, mailbox in
      let memory = try MemoryRegion(size: 16 << 20)
      let signals = try SignalDescriptor([SIGUSR2])
      defer { signals.close() }
      try Server.serve(
        configuration, volume: MemoryVolume(size: 16 << 20, control),
        devices: DeviceSet(paths: []), listeners: listeners, signals: signals,
        clientMemory: memory.bytes, handed: list, mailbox: mailbox, logger: TestServer.logger)
    }
    server.expectIdle()
    #expect(control.writes == (saysDisconnect ? 50 : 0))
    for end in ends { close(end.0) }
  }

  /// A connection with a WRITE that was not begun, and a DISC behind it.
  private func handed(_ descriptor: Int32, _ saysDisconnect: Bool) throws -> HandedConnection {
    let head = Packet().u32(0x2560_9513).u16(0).u16(1).u64(1).u64(0).u32(4)
    var window = head.raw([1, 2, 3, 4])
    let end = Packet().u32(0x2560_9513).u16(0).u16(2).u64(2).u64(0).u32(0)
    if saysDisconnect { window = window.raw(end.bytes) }
    let words = """
      {"isTCP": false, "isEncrypted": false, "window": \(window.bytes), "negotiated":
        {"stage": "transmission", "style": "simple", "contexts": [], "sendsZeroes": true,
         "isFixed": true, "options": 0, "isReadOnly": false, "advertisedPayload": 1048576}}
      """
    var connection = try JSONDecoder().decode(HandedConnection.self, from: Data(words.utf8))
    connection.descriptor = descriptor
    return connection
  }
}
