import Glibc
import NBDProtocol
import Testing

private let styles: [ReplyStyle] = [.simple, .structured, .extended]

@Suite(.serialized) struct DataTests {
  private func pattern(_ count: Int, _ seed: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed &* 7 &+ $0 >> 8) }
  }

  @Test(arguments: styles) func whatIsWrittenIsRead(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    for (offset, count): (UInt64, Int) in [
      (0, 4096), (1, 1), (4095, 2), (8192, 65_536), (1000, 100_000), (1 << 20, 1 << 20),
      (12_345, 1 << 20), (777, 3 << 20), (2 << 20, 5 << 20),
    ] {
      let data = pattern(count, Int(offset))
      #expect(client.write(offset, data).error == 0)
      let reply = client.read(offset, count)
      #expect(reply.error == 0 && reply.data == data)
    }
    #expect(client.call(3).error == 0)
    client.close()
    server.expectIdle()
  }

  @Test(arguments: styles) func zeroingAndTrimming(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    #expect(client.write(0, pattern(65_536, 1)).error == 0)
    #expect(client.call(6, offset: 4096, length: 8192).error == 0)
    #expect(client.call(4, offset: 20_480, length: 4096).error == 0)
    #expect(client.call(5, offset: 0, length: 65_536).error == 0)
    // FAST_ZERO: ragged edges are refused, and nothing has happened.
    #expect(client.call(6, flags: 16, offset: 100, length: 8192).error == 95)
    #expect(client.call(6, flags: 16 | 1, offset: 32_768, length: 8192).error == 0)
    var expected = pattern(65_536, 1)
    for range in [4096..<12_288, 20_480..<24_576, 32_768..<40_960] {
      expected.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
    }
    #expect(client.read(0, 65_536).data == expected)
  }

  @Test(arguments: styles) func refusedRequestsLeaveTheConnection(style: ReplyStyle) throws {
    let server = try TestServer(size: 1 << 20)
    let client = try Client(server, style)
    let end: UInt64 = 1 << 20
    #expect(client.read(end - 1, 2).error == 22)
    #expect(client.read(.max, 4096).error == 22)
    #expect(client.write(end - 1, [1, 2]).error == 28)
    #expect(client.write(.max - 10, pattern(200_000, 3)).error == 28)
    #expect(client.call(4, offset: end, length: 1).error == 22)
    #expect(client.call(6, offset: end, length: 1).error == 28)
    #expect(client.call(99).error == 22)
    #expect(client.call(0, flags: 2, length: 512).error == 22)
    #expect(client.read(0, 0).error == 0)
    #expect(client.write(0, []).error == 0)
    #expect(client.write(5, [1, 2, 3]).error == 0)
    #expect(client.read(5, 3).data == [1, 2, 3])
    if style != .simple { #expect(!client.read(end, 1).text.isEmpty) }
    client.close()
    server.expectIdle()
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func holes(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    let nothing = client.read(0, 3 << 20)
    #expect(nothing.dataChunks == 0 && nothing.holeBytes == 3 << 20)
    #expect(nothing.data == [UInt8](repeating: 0, count: 3 << 20))
    _ = client.write(100_000, pattern(10, 9))
    let some = client.read(5, 1 << 20)
    #expect(some.dataChunks == 1 && some.holeBytes == (1 << 20) - 4096)
    #expect(Array(some.data[99_995..<100_005]) == pattern(10, 9))
    // A short hole between data is sent as zeros; so is everything under DF.
    _ = client.write(110_592, pattern(10, 9))
    #expect(client.read(0, 1 << 20).dataChunks == 1)
    let whole = client.read(5, 64 << 10, flags: 4)
    #expect(whole.dataChunks == 1 && whole.holeBytes == 0 && whole.data.count == 64 << 10)
    #expect(client.read(0, 64 << 10 + 1, flags: 4).error == 75)
    client.close()
    server.expectIdle()
  }

  /// What an earlier read saw as holes is no hole of a later one, whichever slot it gets.
  @Test(arguments: [ReplyStyle.structured, .extended])
  func holesOfEarlierReadsAreForgotten(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    for _ in 0..<2400 { #expect(client.read(0, 4096).holeBytes == 4096) }
    #expect(client.write(0, pattern(4096, 3)).error == 0)
    let whole = client.read(0, 4096, flags: 4)
    #expect(whole.dataChunks == 1 && whole.data == pattern(4096, 3))
    client.close()
    server.expectIdle()
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func manyHoles(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style)
    // Data every 20 KiB: more chunks than one send takes.
    var expected = [UInt8](repeating: 0, count: 8 << 20)
    for block in stride(from: 0, to: 2048, by: 5) {
      let data = pattern(4096, block)
      _ = client.write(UInt64(block * 4096), data)
      expected.replaceSubrange(block * 4096..<(block + 1) * 4096, with: data)
    }
    let reply = client.read(0, 8 << 20)
    #expect(reply.data == expected && reply.dataChunks == 410)
    // Holes cut short by a piece's end are sent as zeros.
    #expect(reply.holeBytes > 1500 * 4096)
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func blockStatus(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(server, style, contexts: ["base:allocation"])
    _ = client.write(8192, pattern(4096, 1))
    func ask(_ length: UInt64, flags: UInt16 = 0) -> Reply {
      client.call(7, flags: flags, offset: 0, length: length)
    }
    #expect(ask(16_384).descriptors == [[8192, 3], [4096, 0], [4096, 3]])
    #expect(ask(16_384, flags: 8).descriptors == [[8192, 3]])
    #expect(ask(16 << 20).descriptors.last == [(16 << 20) - 12_288, 3])
    #expect(ask(16 << 20 + 1).error == 22)
    let other = try Client(server, style)
    #expect(other.call(7, offset: 0, length: 4096).error == 22)
    client.close()
    other.close()
    server.expectIdle()
  }

  /// One context's failure ends the reply, behind the chunks of those before it.
  @Test(arguments: [ReplyStyle.structured, .extended])
  func aContextThatFails(style: ReplyStyle) throws {
    let server = try TestServer()
    let client = try Client(
      server, style,
      contexts: ["base:allocation", "qemu:allocation-depth", "x-thermocline:tier"])
    let good = client.call(7, offset: 0, length: 8192)
    #expect(good.error == 0 && good.contexts == [1, 2, 3])
    server.control.failsTiers = true
    for _ in 0..<300 {
      let reply = client.call(7, offset: 4096, length: 8192)
      #expect(reply.error == 5 && reply.contexts == [1, 2] && !reply.isCut)
    }
    server.control.failsTiers = false
    #expect(client.call(7, offset: 0, length: 8192).contexts == [1, 2, 3])
    client.close()
    server.expectIdle()
  }

  @Test func errorsAreConfined() throws {
    for style in [ReplyStyle.structured, .extended] {
      let server = try TestServer()
      server.control.failingOffset = 2 << 20 + 4096
      let client = try Client(server, style)
      let reply = client.read(0, 5 << 20)
      #expect(reply.error == 5 && reply.errorOffset == 2 << 20 + 4096 && !reply.isCut)
      #expect(client.write(1 << 20, pattern(4 << 20, 2)).error == 5)
      #expect(client.read(0, 4096).error == 0)
      client.close()
      server.expectIdle()
    }
  }

  @Test func aBrokenSimpleReadClosesTheConnection() throws {
    let server = try TestServer()
    server.control.failingOffset = 6 << 20
    let client = try Client(server, .simple)
    // The first piece fails: an error can still be said.
    #expect(client.read(6 << 20, 3 << 20).error == 5)
    // A later one: the header is out.
    #expect(client.read(0, 8 << 20).isCut)
    #expect(client.isAtEnd)
    let next = try Client(server, .simple)
    #expect(next.read(0, 4096).error == 0)
    client.close()
    next.close()
    server.expectIdle()
  }

  @Test func headersInPieces() throws {
    let server = try TestServer()
    for style in styles {
      let client = try Client(server, style)
      let (head, _) = client.request(1, offset: 4096, length: 3000)
      for byte in head.raw(pattern(3000, 5)).bytes[..<200] { client.send([byte]) }
      client.send(Array(head.raw(pattern(3000, 5)).bytes[200...]))
      #expect(client.reply(expecting: { _ in (1, 4096, 3000) }).error == 0)
      #expect(client.read(4096, 3000).data == pattern(3000, 5))
    }
  }

  /// Many requests under way on three connections, answered in any order, against a model.
  @Test(arguments: styles, [1, 2]) func randomTraffic(style: ReplyStyle, seed: UInt64) throws {
    let server = try TestServer(size: 8 << 20, clientMemory: 8 << 20, tcp: seed == 2)
    server.control.shuffles = true
    let clients = try (0..<3).map { _ in try Client(server, style) }
    var model = [UInt8](repeating: 0, count: 8 << 20)
    var random = Xorshift(state: seed &* 977)
    for round in 0..<60 {
      var asked: [[UInt64: Client.Asked]] = [[:], [:], [:]]
      // Writes of a round do not overlap: each client has its own third of the volume.
      for (i, client) in clients.enumerated() {
        var packet = Packet()
        let base = i * (8 << 20) / 3
        var at = base
        for _ in 0..<12 {
          let count = [1, 512, 4096, 10_000, 65_536, 300_000, 1_500_000][random.below(7)]
          guard at + count < base + (8 << 20) / 3 else { break }
          let writes = random.below(2) == 0
          let (head, cookie) = client.request(
            writes ? 1 : 0, offset: UInt64(at), length: UInt64(count))
          packet = packet.raw(head.bytes)
          if writes {
            let data = pattern(count, round * 13 + at)
            packet = packet.raw(data)
            model.replaceSubrange(at..<at + count, with: data)
          }
          asked[i][cookie] = (writes ? 1 : 0, UInt64(at), UInt64(count))
          at += count + random.below(9000)
        }
        // The ranges of a round are apart, so a read sees the model.
        client.sendMeanwhile(packet)
        while !asked[i].isEmpty {
          let reply = client.reply(expecting: { asked[i][$0] ?? (99, 0, 0) })
          guard let request = asked[i].removeValue(forKey: reply.cookie) else {
            Issue.record("an answer that was not asked for, round \(round)")
            return
          }
          #expect(reply.error == 0)
          if request.type == 0 {
            let range = Int(request.offset)..<Int(request.offset + request.length)
            #expect(reply.data == Array(model[range]), "round \(round) seed \(seed)")
          }
        }
      }
    }
    for client in clients { client.close() }
    server.expectIdle()
  }
}

struct Xorshift {
  var state: UInt64
  mutating func below(_ n: Int) -> Int {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int((state >> 33) % UInt64(n))
  }
}
