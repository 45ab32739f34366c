import NBDProtocol
import Testing

@Suite struct HandshakeOptionsTests {
  /// Flags, as bits: the server's usual set without chunks.
  static let usual: UInt16 = 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048

  @Test func exportName() {
    for name in ["", "vol"] {
      let long = drive(Bytes().flags(1).option(1, Bytes().text(name)).all)
      #expect(long.replies.count == 134)
      let short = drive(Bytes().flags(3).option(1, Bytes().text(name)).all)
      #expect(short.replies.count == 10)
      var reader = Reader(short.replies)
      #expect(reader.u64() == 1 << 20)
      #expect(reader.u16() == Self.usual)
      #expect(short.session?.style == .simple)
    }
  }

  @Test func exportNameIsRefusedByClosing() {
    let unknown = drive(Bytes().flags().option(1, Bytes().text("other")).all)
    #expect(unknown.events.last == .close(.exportNameRefused))
    #expect(unknown.replies.isEmpty)
    let extended = drive(Bytes().flags().option(11).option(1).all)
    #expect(extended.events.last == .close(.exportNameRefused))
    let long = Bytes().raw([UInt8](repeating: 65, count: 4097))
    #expect(drive(Bytes().flags().option(1, long).all).events.last == .close(.exportNameRefused))
  }

  @Test func list() {
    let outcome = drive(Bytes().flags().option(3).all)
    #expect(outcome.types == [2, 1])
    var reader = Reader(outcome.answers[0].data)
    let length = Int(reader.u32())
    #expect(reader.text(length) == "vol")
    #expect(reader.text(99) == "a volume")
    #expect(drive(Bytes().flags().option(3, Bytes().text("x")).go().all).types.first == 0x8000_0003)
  }

  @Test func infoAndGoTellAll() {
    for requests: [UInt16] in [[], [3], [0, 1, 2, 3, 77]] {
      let info = drive(Bytes().flags().go("vol", type: 6, requests: requests).all)
      #expect(info.types == [3, 3, 3, 3, 1])
      #expect(info.session == nil)
      let go = drive(Bytes().flags().go("vol", requests: requests).all)
      #expect(go.types == [3, 3, 3, 3, 1])
      #expect(go.session?.exportSize == 1 << 20)
      let items = go.answers.map(\.data)
      var export = Reader(items[0])
      #expect(export.u16() == 0 && export.u64() == 1 << 20 && export.u16() == Self.usual)
      #expect(items[1] == [0, 1] + Array("vol".utf8))
      #expect(items[2] == [0, 2] + Array("a volume".utf8))
      var sizes = Reader(items[3])
      #expect(sizes.u16() == 3)
      #expect(sizes.u32() == 1 && sizes.u32() == 4096 && sizes.u32() == 32 << 20)
    }
  }

  @Test func unknownExportGoesOn() {
    let outcome = drive(Bytes().flags().go("other").go("").all)
    #expect(outcome.types.first == 0x8000_0006)
    #expect(outcome.session != nil)
    // No text of the peer comes back (N4).
    #expect(!String(decoding: outcome.answers[0].data, as: UTF8.self).contains("other"))
  }

  @Test func malformedGoIsInvalid() {
    let bad: [Bytes] = [
      Bytes(), Bytes().u32(0), Bytes().u32(0).raw([0]), Bytes().u32(5).text("vol").u16(0),
      Bytes().u32(.max).u16(0), Bytes().string("vol").u16(1), Bytes().string("vol").u16(0).raw([1]),
      Bytes().string("v\0l").u16(0), Bytes().u32(2).raw([0xc3, 0x28]).u16(0),
      Bytes().string(String(repeating: "n", count: 4097)).u16(0),
      Bytes().string("vol").u16(.max),
    ]
    for data in bad {
      for type: UInt32 in [6, 7] {
        let outcome = drive(Bytes().flags().option(type, data).go().all)
        #expect(outcome.types.first == 0x8000_0003)
        #expect(outcome.session != nil)
      }
    }
  }

  @Test func replyStyles() {
    #expect(makeSession(.structured).style == .structured)
    #expect(makeSession(.extended).style == .extended)
    let both = drive(Bytes().flags().option(8).option(11).go().all)
    #expect(both.session?.style == .extended)
    let late = drive(Bytes().flags().option(11).option(8).go().all)
    #expect(late.types[1] == 0x8000_000a)
    #expect(late.session?.style == .extended)
    for option: UInt32 in [8, 11] {
      let outcome = drive(Bytes().flags().option(option, Bytes().text("x")).go().all)
      #expect(outcome.types[0] == 0x8000_0003)
      #expect(outcome.session?.style == .simple)
    }
  }

  /// Whatever the mode has become meanwhile: who is encrypted begins TLS only once.
  @Test(arguments: [TLSMode.unavailable, .forbidden, .offered, .required])
  func startTLSComesOnce(mode: TLSMode) {
    var offer = Offer.example
    offer.tls = mode
    var handshake = Handshake()
    var replies: [UInt8] = []
    _ = look(&handshake, Bytes().flags().all, offer, &replies)
    handshake.encrypted()
    replies = []
    _ = look(&handshake, Bytes().option(5).all, offer, &replies)
    var reader = Reader(replies)
    _ = (reader.u64(), reader.u32())
    #expect(reader.u32() == 0x8000_0003)
  }

  /// A client that does not understand replies to options cannot begin TLS ("TLS support").
  @Test(arguments: [TLSMode.offered, .required]) func noTLSWithoutFixedNewstyle(mode: TLSMode) {
    var offer = Offer.example
    offer.tls = mode
    let outcome = drive(Bytes().flags(0).option(5).all, offer)
    if mode == .required {
      #expect(outcome.events.last == .close(.exportNameRefused))
    } else {
      #expect(outcome.types == [0x8000_0003])
    }
  }

  @Test func transmissionFlags() {
    var export = Offer.example.export
    #expect(export.flags(.simple, contexts: 0).rawValue == Self.usual)
    #expect(export.flags(.structured, contexts: 1).rawValue == Self.usual | 128)
    #expect(export.flags(.extended, contexts: 0).rawValue == Self.usual | 128)
    #expect(export.flags(.extended, contexts: 1).rawValue == Self.usual | 128 | 4096)
    export.isRotational = true
    #expect(export.flags(.simple, contexts: 0).rawValue == Self.usual | 16)
    export.isReadOnly = true
    #expect(export.flags(.simple, contexts: 0).rawValue == 1 | 2 | 4 | 8 | 16 | 256 | 1024)
  }

  @Test func longestRepliesFit() {
    var offer = Offer.example
    offer.export = Export(
      name: String(repeating: "n", count: 4096), description: String(repeating: "d", count: 4096),
      size: 4096)
    let outcome = drive(Bytes().flags().option(3).go().all, offer)
    #expect(outcome.types == [2, 1, 3, 3, 3, 3, 1])
  }
}
