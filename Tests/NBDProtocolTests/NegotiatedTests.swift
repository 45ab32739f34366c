import NBDProtocol
import Testing

/// A connection that is handed over: its handshake, or its session, goes on at another server as if
/// nothing had happened.
@Suite struct NegotiatedTests {
  private let life = Bytes().flags(1).option(99).option(11)
    .contexts(10, "vol", ["x-wide:all", "base:allocation"]).go("vol").all

  @Test func aHandshakeGoesOnAnywhere() throws {
    let whole = try #require(drive(life).session)
    // Handed over before each unit.
    for handover in 0..<6 {
      var handshake = Handshake()
      var rest = life
      var replies: [UInt8] = []
      var session: Session? = nil
      var units = 0
      while session == nil {
        if units == handover {
          let words = try #require(handshake.negotiated(.example))
          handshake = try #require(Handshake(words, .example))
          #expect(handshake.negotiated(.example) == words)
        }
        let step = look(&handshake, rest, .example, &replies)
        try #require(step.consumed > 0)
        rest.removeFirst(step.consumed)
        units += 1
        if case .transmission(let it) = step.event { session = it }
      }
      #expect(session == whole, "handed over after \(handover) units")
    }
  }

  @Test(arguments: [ReplyStyle.simple, .structured, .extended])
  func aSessionGoesOnAnywhere(style: ReplyStyle) throws {
    let contexts = style == .simple ? [] : ["qemu:allocation-depth", "base:allocation"]
    let session = makeSession(style, contexts: contexts)
    let words = session.negotiated(Offer.example.export)
    #expect(words.contexts == contexts)
    #expect(Session(words, .example) == session)
    #expect(Handshake(words, .example) == nil)
  }

  @Test func whatAnExportCannotDoIsNotTaken() throws {
    let session = makeSession(.structured, contexts: ["x-thermocline:tier"])
    let words = session.negotiated(Offer.example.export)
    var other = Offer.example
    other.export.contexts = [.allocation]
    #expect(Session(words, other) == nil)
    var strange = words
    strange.style = "chunky"
    #expect(Session(strange, .example) == nil)
    var over = Handshake()
    over.encrypted()
    #expect(over.negotiated(.example) == nil)
  }
}
