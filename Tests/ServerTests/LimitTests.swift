import Base
import Glibc
import NBDProtocol
import Server
import Testing

@Suite(.serialized) struct LimitTests {
  @Test func requestsInFlight() throws {
    let server = try TestServer()
    let client = try Client(server)
    server.control.holdsReplies = true
    var packet = Packet()
    for i in 0..<300 {
      packet = packet.raw(client.request(0, offset: UInt64(i * 4096), length: 512).packet.bytes)
    }
    client.send(packet)
    eventually("128 are taken") { server.control.submitted == 128 }
    usleep(50_000)
    #expect(server.control.submitted == 128)
    server.control.holdsReplies = false
    for _ in 0..<300 {
      #expect(client.reply(expecting: { _ in (0, 0, 512) }).data.count == 512)
    }
    client.close()
    server.expectIdle()
  }

  @Test func bytesInFlight() throws {
    let server = try TestServer { $0.bytesInFlight = 256 << 10 }
    let client = try Client(server)
    server.control.holdsReplies = true
    for i in 0..<10 {
      client.send(client.request(0, offset: UInt64(i * 65_536), length: 65_536).packet)
    }
    eventually("four are taken") { server.control.submitted == 4 }
    usleep(50_000)
    #expect(server.control.submitted == 4)
    server.control.holdsReplies = false
    for _ in 0..<10 {
      #expect(client.reply(expecting: { _ in (0, 0, 65_536) }).data.count == 65_536)
    }
    // One request larger than the limit is served alone.
    #expect(client.read(0, 1 << 20).data.count == 1 << 20)
  }

  /// Memory for two or three requests: all are served, one after the other.
  @Test(arguments: [ReplyStyle.simple, .structured])
  func memoryIsWaitedFor(style: ReplyStyle) throws {
    let server = try TestServer(size: 64 << 20, clientMemory: 8 << 20) { $0.connections = 8 }
    let clients = try (0..<4).map { _ in try Client(server, style) }
    let data = [UInt8](repeating: 7, count: 1 << 20)
    for (i, client) in clients.enumerated() {
      // Nothing is read back before all is sent, so replies take memory, too.
      for j in 0..<4 {
        let offset = UInt64((i * 8 + j) << 20)
        client.send(client.request(0, offset: offset, length: 4 << 20).packet)
      }
    }
    for client in clients {
      for _ in 0..<4 {
        let reply = client.reply(expecting: {
          (0, UInt64((Int($0) - 101) % 4) << 20 + self.base(client, clients), 4 << 20)
        })
        #expect(reply.error == 0 && reply.data == [UInt8](repeating: 0, count: 4 << 20))
      }
    }
    for client in clients {
      #expect(client.write(3, data).error == 0)
      client.close()
    }
    server.expectIdle()
  }

  /// A WRITE that fails while its next piece waits for memory stays in that queue until its turn,
  /// and so does whoever waits behind it.
  @Test func aFailedWriteKeepsItsPlaceInTheQueue() throws {
    let server = try TestServer(size: 64 << 20, clientMemory: 8 << 20) {
      $0.connections = 16
      $0.connectionsInHandshake = 16
      $0.unfragmentedRead = 1 << 20
    }
    server.control.failingOffset = 32 << 20
    server.control.holdsReplies = true
    let writer = try Client(server)
    writer.send(writer.request(3).packet)
    let payload = [UInt8](repeating: 1, count: 8 << 20)
    writer.send(writer.request(1, offset: 32 << 20, length: 8 << 20).packet)
    writer.sendMeanwhile(Packet(bytes: Array(payload[..<(1 << 20)])))
    eventually("the first piece is in the engine") { server.control.submitted >= 2 }
    // Readers take what memory there is, and the first that finds none heads the queue.
    let readers = try (0..<10).map { _ in try Client(server, .structured) }
    for reader in readers { reader.send(reader.request(0, flags: 4, length: 1 << 20).packet) }
    server.expect("all are taken") { $0.clients.requests == 12 }
    #expect(server.control.submitted < 12, "some wait for memory")
    writer.sendMeanwhile(Packet(bytes: Array(payload[(1 << 20)..<(2 << 20)])))
    usleep(50_000)
    let last = try Client(server)
    last.send(last.request(0, length: 512 << 10).packet)
    server.expect("the last is taken") { $0.clients.requests == 13 }
    server.control.holdsReplies = false
    #expect(writer.reply(expecting: { _ in (3, 0, 0) }).error == 0)
    writer.sendMeanwhile(Packet(bytes: Array(payload[(2 << 20)...])))
    usleep(100_000)
    for reader in readers {
      let reply = reader.reply(expecting: { _ in (0, 0, 1 << 20) })
      #expect(reply.error == 0 && reply.data.count == 1 << 20)
    }
    #expect(writer.reply(expecting: { _ in (1, 32 << 20, 8 << 20) }).error == 5)
    #expect(last.reply(expecting: { _ in (0, 0, 512 << 10) }).data.count == 512 << 10)
    for client in readers + [writer, last] { client.close() }
    server.expectIdle()
  }

  private func base(_ client: Client, _ all: [Client]) -> UInt64 {
    UInt64(all.firstIndex { $0 === client }! * 8) << 20
  }

  /// Clients that ask and do not listen, or begin to write and do not go on, leave memory and
  /// transactions to the others, however many they are.
  @Test(arguments: [
    "reads", "whole reads", "full buffers", "reads and flushes", "statuses", "several statuses",
    "writes",
  ])
  func lazyClientsDoNotStarveOthers(kind: String) throws {
    let server = try TestServer(size: 64 << 20, clientMemory: 24 << 20) {
      $0.connections = 40
      $0.connectionsInHandshake = 40
    }
    let other = try Client(server)
    for i in 0..<60 {
      #expect(other.write(UInt64(i << 20), [UInt8](repeating: 1, count: 1 << 20)).error == 0)
    }
    let lazy = try (0..<39).map { _ in
      try Client(
        server, .structured,
        contexts: kind == "statuses"
          ? ["base:allocation"]
          : kind == "several statuses" ? ["base:allocation", "qemu:allocation-depth"] : [])
    }
    for client in lazy {
      func many(_ count: Int, _ make: (Int) -> Packet) -> Packet {
        (0..<count).reduce(Packet()) { $0.raw(make($1).bytes) }
      }
      let packet =
        switch kind {
        case "reads":
          many(40) { client.request(0, offset: UInt64($0) << 20, length: 1 << 20).packet }
        case "whole reads":
          many(120) {
            client.request(0, flags: 4, offset: UInt64($0 % 60) << 20, length: 64 << 10).packet
          }
        case "full buffers":
          many(120) {
            client.request(0, offset: UInt64($0 % 60) << 20, length: 508 << 10).packet
          }
        case "reads and flushes":
          client.request(0, length: 1 << 20).packet.raw(
            many(127) { _ in client.request(3).packet }.bytes)
        case "statuses", "several statuses":
          many(100) { _ in client.request(7, length: 64 << 20).packet }
        default: client.request(1, length: 8 << 20).packet
        }
      client.sendMeanwhile(packet)
    }
    usleep(300_000)
    for i in 0..<20 { #expect(other.read(UInt64(i << 20), 2 << 20).data.count == 2 << 20) }
    #expect(other.write(0, [UInt8](repeating: 9, count: 3 << 20)).error == 0)
    #expect(other.call(3).error == 0)
    for client in lazy { client.close() }
    other.close()
    server.expectIdle()
  }

  /// What a reply holds is its client's until it is sent. Holes are little to send, and hold as
  /// much as data: who takes only the first of many replies must not hold their memory twice. Nor,
  /// where they are small, their pieces.
  @Test(arguments: [(3, 60, 508 << 10), (30, 127, 4096)])
  func whatIsBeingSentCounts(lazies: Int, count: Int, length: UInt64) throws {
    let server = try TestServer(size: 96 << 20, clientMemory: 24 << 20) {
      $0.connections = 40
      $0.connectionsInHandshake = 40
    }
    let other = try Client(server)
    // 32 MiB of data, then holes.
    for i in 0..<32 {
      #expect(other.write(UInt64(i << 20), [UInt8](repeating: 1, count: 1 << 20)).error == 0)
    }
    let lazy = try (0..<lazies).map { _ in try Client(server, .structured) }
    func hole(_ i: Int) -> UInt64 { UInt64(32 + i % 60) << 20 }
    func ask(_ client: Client) {
      var packet = Packet()
      for i in 0..<count {
        packet = packet.raw(client.request(0, offset: hole(i), length: length).packet.bytes)
      }
      client.sendMeanwhile(packet.raw(client.request(0, length: 1 << 20).packet.bytes))
      usleep(50_000)
    }
    for client in lazy {
      // More than a socket holds: this send does not end by itself.
      client.send(client.request(0, length: 1 << 20).packet)
      usleep(50_000)
      ask(client)
      // It ends, and the next one begins: holes, and data that is not taken.
      var reply = Reply()
      while reply.cookie != client.firstCookie && !reply.isCut {
        reply = client.reply(expecting: {
          let number = Int($0 - client.firstCookie) % (count + 1)
          return number == 0 ? (0, 0, 1 << 20) : (0, hole(number - 1), length)
        })
      }
      #expect(reply.data.count == 1 << 20)
      usleep(50_000)
      ask(client)
    }
    for i in 0..<20 { #expect(other.read(UInt64(i << 20), 2 << 20).data.count == 2 << 20) }
    for client in lazy { client.close() }
    other.close()
    server.expectIdle()
  }

  @Test func engineBackPressure() throws {
    let server = try TestServer()
    let client = try Client(server)
    server.control.refusesRequests = true
    client.send(client.request(0, length: 4096).packet)
    usleep(30_000)
    #expect(server.control.submitted == 0)
    server.control.refusesRequests = false
    #expect(client.reply(expecting: { _ in (0, 0, 4096) }).error == 0)
  }

  @Test func handshakesAreTimed() throws {
    let server = try TestServer { $0.handshakeTime = Milliseconds(200) }
    let silent = try Client(server, nil)
    let started = try Client(server, nil)
    _ = started.read(18)
    started.send(Packet().u32(3).u64(0x4948_4156_454f_5054).u32(7))
    #expect(silent.read(18).count == 18)
    #expect(silent.isAtEnd && started.isAtEnd)
    let quick = try Client(server)
    usleep(400_000)
    #expect(quick.read(0, 512).error == 0)
    server.expect("timeouts are counted") { $0.clients.timeouts == 2 }
    quick.close()
    server.expectIdle()
  }

  @Test func connectionsAreCounted() throws {
    let server = try TestServer {
      $0.connections = 3
      $0.connectionsInHandshake = 2
    }
    let shaking = try (0..<2).map { _ in try Client(server, nil) }
    for client in shaking { #expect(client.read(18).count == 18) }
    // The oldest of those in their handshake makes room; one that is through does not.
    let first = try Client(server)
    #expect(shaking[0].isAtEnd)
    server.expect("one is gone") { $0.clients.handshaking == 1 }
    let second = try Client(server)
    #expect(try Client(server, nil).isAtEnd)
    #expect(first.read(0, 512).error == 0 && second.read(0, 512).error == 0)
    server.expect("refusals are counted") { $0.clients.refused == 2 }
    for client in shaking + [first, second] { client.close() }
    server.expectIdle()
  }

  @Test(arguments: [false, true]) func whoTakesNothingIsDropped(tcp: Bool) throws {
    let server = try TestServer(size: 64 << 20, tcp: tcp) { $0.sendStall = Milliseconds(400) }
    let lazy = try Client(server)
    for _ in 0..<8 { lazy.send(lazy.request(0, length: 8 << 20).packet) }
    server.expect("the lazy client is dropped") { $0.clients.timeouts == 1 }
    server.expectIdle()
    // Who takes a little now and then is kept.
    let slow = try Client(server)
    slow.send(slow.request(0, length: 8 << 20).packet)
    #expect(slow.read(16).count == 16)
    for _ in 0..<12 {
      #expect(slow.read(64 << 10).count == 64 << 10)
      usleep(100_000)
    }
    #expect(slow.read(5 << 20).count == 5 << 20)
    slow.close()
    server.expectIdle()
  }

  @Test func longPayloadsClose() throws {
    let server = try TestServer()
    for style in [ReplyStyle.simple, .extended] {
      let client = try Client(server, style)
      client.send(client.request(1, length: 64 << 20 + 1).packet)
      #expect(client.isAtEnd)
    }
    server.expect("they are counted") { $0.clients.protocolErrors == 2 }
    let client = try Client(server)
    #expect(client.read(0, 64 << 20 + 1).error == 22)
    client.close()
    server.expectIdle()
  }
}
