import NBDProtocol
import Testing

@Suite struct HandshakeTests {
  @Test func greetingIsFixedNewstyle() {
    var memory = [UInt8](repeating: 0, count: 18)
    let count = memory.withUnsafeMutableBytes { Handshake.writeGreeting(to: $0.baseAddress!) }
    #expect(count == 18)
    #expect(String(decoding: memory[..<16], as: UTF8.self) == "NBDMAGICIHAVEOPT")
    #expect(memory[16...] == [0, 3])
  }

  @Test func unknownClientFlagsClose() {
    for bit in 2..<32 {
      let outcome = drive(Bytes().flags(3 | 1 << UInt32(bit)).go().all)
      #expect(outcome.events == [.close(.unknownClientFlags)])
      #expect(outcome.replies.isEmpty)
    }
    for flags in 0..<4 {
      #expect(drive(Bytes().flags(UInt32(flags)).go().all).session != nil)
    }
  }

  @Test func unknownOptionIsUnsupportedAndTheNextIsServed() {
    for option: UInt32 in [0, 4, 12, 99, .max] {
      let outcome = drive(Bytes().flags().option(option, Bytes().text("data")).go().all)
      #expect(outcome.types.first == 0x8000_0001)
      #expect(outcome.answers.first?.option == option)
      #expect(outcome.session != nil)
    }
  }

  @Test func badMagicCloses() {
    let outcome = drive(Bytes().flags().u64(1).u32(7).u32(0).all)
    #expect(outcome.events.last == .close(.badMagic))
  }

  @Test func abortIsAcknowledgedThenClosed() {
    let outcome = drive(Bytes().flags().option(2, Bytes().text("ignored")).all)
    #expect(outcome.types == [1])
    #expect(outcome.events.last == .close(.aborted))
  }

  @Test func optionsAreCounted() {
    var stream = Bytes().flags()
    for _ in 0..<32 { stream = stream.option(99) }
    #expect(drive(stream.all).types.count == 32)
    #expect(drive(stream.option(2).all).events.last == .close(.tooManyOptions))
  }

  @Test func optionDataIsLimited() {
    let full = Bytes().raw([UInt8](repeating: 1, count: 65_536))
    #expect(drive(Bytes().flags().option(99, full).go().all).session != nil)
    let header = Bytes().flags().u64(0x4948_4156_454f_5054).u32(99)
    #expect(drive(header.u32(65_537).all).events.last == .close(.optionTooLong))
    #expect(drive(header.u32(.max).all).events.last == .close(.optionTooLong))
  }

  @Test func bytesBehindGoStayInTheWindow() {
    let outcome = drive(Bytes().flags().go().request(0, length: 512).all)
    #expect(outcome.rest.count == 28)
  }

  @Test func shuttingDownAnswersAllButAbort() {
    var offer = Offer.example
    offer.isShuttingDown = true
    let outcome = drive(Bytes().flags().option(3).go().option(77).option(2).all, offer)
    #expect(outcome.types == [0x8000_0007, 0x8000_0007, 0x8000_0007, 1])
    #expect(drive(Bytes().flags().option(1).all, offer).events.last == .close(.exportNameRefused))
  }

  @Test func startTLSFollowsThePolicy() {
    var offer = Offer.example
    #expect(drive(Bytes().flags().option(5).go().all, offer).types.first == 0x8000_0001)
    offer.tls = .forbidden
    #expect(drive(Bytes().flags().option(5).go().all, offer).types.first == 0x8000_0002)
    offer.tls = .offered
    let data = Bytes().text("x")
    #expect(drive(Bytes().flags().option(5, data).all, offer).types == [0x8000_0003])
    #expect(drive(Bytes().flags().option(5).all, offer).events.last == .startTLS)
  }

  @Test func startTLSForgetsEverything() {
    var offer = Offer.example
    offer.tls = .offered
    let before = Bytes().flags().option(11).contexts(10, "", ["base:allocation"]).option(5)
    // In one piece, what follows STARTTLS in the clear is discarded.
    #expect(drive(before.go().all, offer).session == nil)
    // In two, the second is what TLS delivers.
    let outcome = drive(before.go().all, offer, pieces: [before.all.count, Int.max])
    #expect(outcome.session?.style == .simple)
    #expect(outcome.session?.selection.count == 0)
    let twice = drive(before.option(5).all, offer, pieces: [before.all.count, Int.max])
    #expect(twice.types.last == 0x8000_0003)
  }

  @Test func requiredTLSFailsClosed() {
    var offer = Offer.example
    offer.tls = .required
    for option: UInt32 in [3, 6, 7, 8, 9, 10, 11, 99] {
      let outcome = drive(Bytes().flags().option(option).all, offer)
      #expect(outcome.types == [0x8000_0005])
    }
    #expect(drive(Bytes().flags().option(1).all, offer).events.last == .close(.exportNameRefused))
    #expect(drive(Bytes().flags().option(2).all, offer).types == [1])
  }

  @Test func everyCuttingGivesTheSame() {
    let stream = Bytes().flags().option(3).option(8).contexts(9, "vol", ["qemu:", "base:"])
      .option(99, Bytes().text("junk")).contexts(10, "vol", ["base:allocation"])
      .go("nope").go("vol", type: 6, requests: [0, 3]).go("vol", requests: [3]).text("rest").all
    let whole = drive(stream)
    #expect(whole.session?.selection.count == 1)
    for size in 1...97 { #expect(drive(stream, pieces: [size]) == whole) }
    for first in 1..<stream.count { #expect(drive(stream, pieces: [first, Int.max]) == whole) }
  }
}
