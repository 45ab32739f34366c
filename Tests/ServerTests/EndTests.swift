import Base
import Glibc
import NBDProtocol
import Server
import Testing

@Suite(.serialized) struct EndTests {
  @Test func hangUpInTheMidstOfAPayload() throws {
    let server = try TestServer()
    for count in [0, 1, 5000, 70_000, 1 << 20, 3_000_000] {
      let client = try Client(server)
      client.send(client.request(1, offset: 0, length: 4 << 20).packet)
      client.send([UInt8](repeating: 1, count: count))
      usleep(5000)
      client.close()
    }
    server.expectIdle()
  }

  @Test func hangUpWithRequestsInTheEngine() throws {
    let server = try TestServer()
    for style in [ReplyStyle.simple, .extended] {
      server.control.holdsReplies = true
      let client = try Client(server, style)
      // Before the first is sent: the engine takes no more than the memory holds.
      let submitted = server.control.submitted
      for i in 0..<20 {
        client.send(client.request(0, offset: UInt64(i) << 18, length: 2 << 20).packet)
      }
      eventually("they are in the engine") {
        server.control.submitted > submitted
      }
      client.close()
      server.expect("the connection is gone") { $0.clients.connections == 0 }
      server.control.holdsReplies = false
      server.expectIdle()
    }
  }

  @Test func whatTheEngineHasNotSeenIsDropped() throws {
    let server = try TestServer()
    server.control.refusesRequests = true
    let client = try Client(server)
    for i in 0..<10 {
      client.send(client.request(1, offset: UInt64(i * 4096), length: 4096).packet)
      client.send([UInt8](repeating: 1, count: 4096))
    }
    server.expect("they are waiting") { $0.clients.requests == 10 }
    client.close()
    server.expect("the connection is gone") { $0.clients.connections == 0 }
    server.control.refusesRequests = false
    server.expectIdle()
    #expect(server.control.writes == 0)
  }

  /// Bytes that lie in the socket when the hang-up is seen are not requests any more.
  @Test func hangUpComesBeforeBufferedBytes() throws {
    let server = try TestServer { $0.requestsInFlight = 1 }
    server.control.holdsReplies = true
    let client = try Client(server)
    client.send(client.request(3).packet)
    eventually("the first is taken") { server.control.submitted == 1 }
    client.send(client.request(1, length: 3).packet.raw([1, 2, 3]))
    client.close()
    server.expect("the connection is gone") { $0.clients.connections == 0 }
    server.control.holdsReplies = false
    server.expectIdle()
    #expect(server.control.writes == 0)
  }

  @Test func disconnectFinishesWhatIsInFlight() throws {
    let server = try TestServer()
    server.control.holdsReplies = true
    let client = try Client(server)
    client.send(client.request(1, offset: 4096, length: 4).packet.raw([1, 2, 3, 4]))
    client.send(client.request(0, offset: 4096, length: 4).packet)
    client.send(client.request(2).packet)
    client.send(client.request(0, offset: 0, length: 4).packet)
    eventually("two are taken") { server.control.submitted == 2 }
    usleep(20_000)
    server.control.holdsReplies = false
    #expect(client.reply(expecting: { _ in (1, 4096, 4) }).error == 0)
    #expect(client.reply(expecting: { _ in (0, 4096, 4) }).data == [1, 2, 3, 4])
    #expect(client.isAtEnd)
    #expect(server.control.submitted == 2)
    server.expectIdle()
  }

  /// A whole conversation may come at once, and the end of sending with it: what a DISC ends is
  /// carried out and answered.
  @Test(arguments: [ReplyStyle.simple, .extended])
  func disconnectThenHangUpAtOnce(style: ReplyStyle) throws {
    let server = try TestServer()
    for round in 0..<20 {
      let client = try Client(server, style)
      var packet = Packet()
      for i in 0..<40 {
        packet = packet.raw(
          client.request(0, offset: UInt64(i) << 14, length: 16_384).packet.bytes)
      }
      // More than the window holds, so that the hang-up is known before all is taken.
      let data = [UInt8](repeating: UInt8(round + 1), count: 300_000)
      packet = packet.raw(client.request(1, offset: 8 << 20, length: 300_000).packet.bytes)
        .raw(data).raw(client.request(4, offset: 4 << 20, length: 4096).packet.bytes)
        .raw(client.request(2).packet.bytes)
      client.sendMeanwhile(packet, thenHangsUp: true)
      for i in 0..<42 {
        let reply = client.reply(expecting: {
          let number = Int($0) - Int(client.firstCookie)
          return number < 40
            ? (0, UInt64(number) << 14, 16_384)
            : number == 40 ? (1, 8 << 20, 300_000) : (4, 4 << 20, 4096)
        })
        #expect(reply.error == 0 && !reply.isCut, "reply \(i)")
      }
      #expect(client.isAtEnd)
      let other = try Client(server)
      #expect(other.read(8 << 20, 300_000).data == data)
      other.close()
      client.close()
    }
    server.expectIdle()
  }

  /// Changes that wait when their client hangs up are made when a DISC follows them, and only then.
  @Test(arguments: [false, true]) func heldChangesWaitForDisconnect(saysDisconnect: Bool) throws {
    let server = try TestServer()
    server.control.refusesRequests = true
    let client = try Client(server)
    for i in 0..<3 {
      client.send(client.request(1, offset: UInt64(i * 4096), length: 4096).packet)
      client.send([UInt8](repeating: 1, count: 4096))
    }
    client.send(client.request(6, offset: 1 << 20, length: 4096).packet)
    server.expect("they are waiting") { $0.clients.requests == 4 }
    if saysDisconnect { client.send(client.request(2).packet) }
    client.hangUp()
    usleep(50_000)
    server.control.refusesRequests = false
    for i in 0..<4 where saysDisconnect {
      let reply = client.reply(expecting: { _ in (1, UInt64(i * 4096), 4096) })
      #expect(reply.error == 0 && !reply.isCut)
    }
    #expect(client.isAtEnd)
    client.close()
    server.expectIdle()
    #expect(server.control.writes == (saysDisconnect ? 3 : 0))
    #expect(server.control.submitted == (saysDisconnect ? 4 : 0))
  }

  /// Who has said DISC may be gone when the first reply is sent: what it asked for is done.
  @Test(arguments: [ReplyStyle.simple, .extended])
  func disconnectThenGoneAtOnce(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    #expect(client.read(0, 512).error == 0)
    server.control.refusesRequests = true
    server.control.standsStill = true
    usleep(20_000)
    var packet = Packet()
    for i in 0..<20 {
      packet = packet.raw(client.request(1, offset: UInt64(i) << 16, length: 4).packet.bytes)
        .raw([1, 2, 3, 4])
      // Answered at once, and refused: no read may be past the end.
      packet = packet.raw(client.request(0, offset: 1 << 60, length: 4).packet.bytes)
    }
    packet = packet.raw(client.request(0, offset: 4096, length: 3 << 20).packet.bytes)
    client.send(packet.raw(client.request(2).packet.bytes))
    client.close()
    server.control.standsStill = false
    usleep(50_000)
    #expect(server.control.writes == 0)
    server.control.refusesRequests = false
    server.expectIdle()
    #expect(server.control.writes == 20)
  }

  /// A hang-up is seen together with what came before it: that is done only if a DISC ends it.
  @Test(arguments: [false, true], [1, 4, 6] as [UInt16])
  func whatComesWithAHangUp(saysDisconnect: Bool, command: UInt16) throws {
    let server = try TestServer()
    let client = try Client(server)
    #expect(client.read(0, 512).error == 0)
    server.control.standsStill = true
    usleep(20_000)
    var packet = Packet()
    for i in 0..<100 {
      packet = packet.raw(
        client.request(command, offset: UInt64(i * 4096), length: 4).packet.bytes)
      if command == 1 { packet = packet.raw([1, 2, 3, 4]) }
    }
    if saysDisconnect { packet = packet.raw(client.request(2).packet.bytes) }
    client.send(packet)
    client.hangUp()
    server.control.standsStill = false
    for _ in 0..<100 where saysDisconnect {
      #expect(client.reply(expecting: { _ in (command, 0, 4) }).error == 0)
    }
    #expect(client.isAtEnd)
    server.expectIdle()
    #expect(server.control.submitted == (saysDisconnect ? 101 : 1))
  }

  /// Who hangs up with no more than may be in flight has all of it done up to its DISC; and what
  /// was begun before makes room for as much. With more it is not waited for.
  @Test(arguments: [(0, 4), (0, 5), (4, 4), (4, 5)])
  func hangUpBehindALimit(before: Int, behind: Int) throws {
    let server = try TestServer { $0.requestsInFlight = 4 }
    let client = try Client(server)
    func write(_ range: Range<Int>) {
      for i in range {
        client.send(client.request(1, offset: UInt64(i * 4096), length: 1).packet.raw([1]))
      }
    }
    server.control.holdsReplies = true
    write(0..<before)
    eventually("they are in the engine") { server.control.submitted == before }
    server.control.standsStill = true
    usleep(20_000)
    write(before..<before + behind)
    client.send(client.request(2).packet)
    client.hangUp()
    server.control.standsStill = false
    usleep(50_000)
    server.control.holdsReplies = false
    server.expect("the connection is gone") {
      $0.clients.accepted == 1 && $0.clients.connections == 0
    }
    server.expectIdle()
    #expect(server.control.writes == before + (behind > 4 ? 0 : behind))
  }

  /// Who has hung up, and could go on when its reply is taken, is not waited for without end.
  @Test func hangUpBehindAReplyThatIsNotTaken() throws {
    let server = try TestServer(size: 64 << 20) {
      $0.requestsInFlight = 2
      $0.handshakeTime = Milliseconds(400)
    }
    let client = try Client(server)
    server.control.standsStill = true
    usleep(20_000)
    for _ in 0..<3 { client.send(client.request(0, length: 8 << 20).packet) }
    client.send(client.request(1, length: 1).packet.raw([1]))
    client.hangUp()
    server.control.standsStill = false
    server.expect("the connection is gone") {
      $0.clients.accepted == 1 && $0.clients.connections == 0
    }
    server.expectIdle()
    #expect(server.control.writes == 0)
  }

  @Test func abortThenHangUpAtOnce() throws {
    let server = try TestServer()
    for _ in 0..<20 {
      let client = try Client(server, nil)
      client.send(
        Packet().u32(3).u64(0x4948_4156_454f_5054).u32(3).u32(0)
          .u64(0x4948_4156_454f_5054).u32(2).u32(0))
      client.hangUp()
      #expect(client.read(18).count == 18)
      // LIST: the export and ACK; ABORT: ACK.
      #expect(client.read(20 + 4 + 3 + 6 + 20 + 20).count == 73)
      #expect(client.isAtEnd)
    }
    server.expectIdle()
  }

  @Test func shutdownDrains() throws {
    let server = try TestServer()
    server.control.holdsReplies = true
    let busy = try Client(server)
    let idle = try Client(server)
    let half = try Client(server)
    let shaking = try Client(server, nil)
    _ = shaking.read(18)
    busy.send(busy.request(1, length: 3).packet.raw([7, 8, 9]))
    half.send(half.request(1, length: 1 << 20).packet.raw([1, 2]))
    eventually("one is taken") { server.control.submitted == 1 }
    let ready = try Client(server, nil)
    #expect(ready.read(18).count == 18)
    server.mailbox.requestShutdown()
    #expect(idle.isAtEnd && half.isAtEnd)
    // Whose handshake is not over may say no more than ABORT, and is not waited for.
    let option = Packet().u64(0x4948_4156_454f_5054)
    shaking.send(Packet().u32(3).raw(option.u32(7).u32(6).u32(0).u16(0).bytes))
    var answer = Parser(shaking.read(20))
    #expect((answer.u64(), answer.u32(), answer.u32()) == (0x3_e889_0455_65a9, 7, 0x8000_0007))
    #expect(shaking.read(Int(answer.u32())).count > 0)
    shaking.send(option.u32(2).u32(0))
    #expect(shaking.read(20).count == 20 && shaking.isAtEnd)
    #expect((try? Client(server, nil))?.isAtEnd ?? true)
    server.control.holdsReplies = false
    #expect(busy.reply(expecting: { _ in (1, 0, 3) }).error == 0)
    #expect(busy.isAtEnd && ready.isAtEnd)
    server.join()
    #expect(server.mailbox.snapshot.isShuttingDown)
  }

  /// Who was brought to rest for a successor is told of the shutdown that comes instead.
  @Test func shutdownInTheMidstOfAHandover() throws {
    let server = try TestServer()
    let shaking = try Client(server, nil)
    #expect(shaking.read(18).count == 18)
    let busy = try Client(server)
    server.control.holdsReplies = true
    busy.send(busy.request(3).packet)
    eventually("one is taken") { server.control.submitted == 1 }
    server.mailbox.requestHandover()
    usleep(150_000)
    server.mailbox.requestShutdown()
    shaking.send(Packet().u32(3).u64(0x4948_4156_454f_5054).u32(7).u32(6).u32(0).u16(0))
    var answer = Parser(shaking.read(20))
    #expect((answer.u64(), answer.u32(), answer.u32()) == (0x3_e889_0455_65a9, 7, 0x8000_0007))
    server.control.holdsReplies = false
    #expect(busy.reply(expecting: { _ in (3, 0, 0) }).error == 0)
    #expect(busy.isAtEnd)
    server.join()
  }

  @Test func shutdownDoesWhatADisconnectEnds() throws {
    let server = try TestServer()
    server.control.refusesRequests = true
    let client = try Client(server)
    client.send(client.request(1, length: 3).packet.raw([7, 8, 9]))
    client.send(client.request(2).packet)
    server.expect("it is waiting") { $0.clients.requests == 1 }
    let other = try Client(server)
    server.mailbox.requestShutdown()
    #expect(other.isAtEnd)
    client.close()
    usleep(50_000)
    server.control.refusesRequests = false
    server.join()
    #expect(server.control.writes == 1)
  }

  @Test func shutdownDoesNotWaitForEver() throws {
    let server = try TestServer(size: 64 << 20)
    let lazy = try Client(server)
    for _ in 0..<8 { lazy.send(lazy.request(0, length: 8 << 20).packet) }
    usleep(50_000)
    server.stop()
  }

  @Test func garbageHurtsNobody() throws {
    let server = try TestServer()
    let good = try Client(server, .structured)
    #expect(good.write(0, [42]).error == 0)
    var random = Xorshift(state: 5)
    for round in 0..<150 {
      let bad = try Client(server, round % 3 == 0 ? nil : .extended)
      if round % 3 == 0 { bad.send(Packet().u32(3)) }
      for _ in 0..<4 {
        var bytes = (0..<random.below(300)).map { _ in UInt8(random.below(256)) }
        if random.below(2) == 0 {
          let type = UInt16(random.below(10))
          let flags = UInt16(random.below(64))
          let length = UInt64(random.below(1 << 22))
          bytes = bad.request(type, flags: flags, length: length).packet.bytes + bytes
        }
        if !bad.send(bytes) { break }
      }
      if round % 7 == 0 { usleep(2000) }
      bad.close()
    }
    #expect(good.read(0, 1).data.count == 1)
    good.close()
    server.expectIdle()
  }
}
