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
          handshake = try #require(Handshake(words, .example, isEncrypted: false))
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
    #expect(Handshake(words, .example, isEncrypted: false) == nil)
  }

  /// What a client was told holds for it at another server as well; read-only is what it is there.
  @Test func aClientKeepsToWhatItWasTold() throws {
    let words = makeSession(.structured).negotiated(Offer.example.export)
    var other = Offer.example
    other.export.isReadOnly = true
    other.limits.advertisedPayload = 1 << 20
    other.limits.acceptedPayload = 2 << 20
    let stricter = try #require(Session(words, other))
    #expect(stricter.isReadOnly && stricter.advertisedPayload == 32 << 20)
    #expect(stricter.acceptedPayload == 32 << 20)
    let again = try #require(Session(stricter.negotiated(other.export), .example))
    #expect(again.isReadOnly && again.advertisedPayload == 32 << 20)
    #expect(again.acceptedPayload == 64 << 20)
    for change in [\Negotiated.isReadOnly, \.advertisedPayload] as [PartialKeyPath<Negotiated>] {
      var strange = words
      if change == \.isReadOnly { strange.isReadOnly = nil } else { strange.advertisedPayload = 5 }
      #expect(Session(strange, .example) == nil)
    }
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
  }

  @Test func encryptionGoesOn() throws {
    var offer = Offer.example
    offer.tls = .required
    var handshake = Handshake()
    var replies: [UInt8] = []
    _ = look(&handshake, Bytes().flags(1).all, offer, &replies)
    handshake.encrypted()
    let words = try #require(handshake.negotiated(offer))
    let go = Bytes().go("vol").all
    var same = try #require(Handshake(words, offer, isEncrypted: true))
    let step = look(&same, go, offer, &replies)
    guard case .transmission = step.event else { return #expect(Bool(false), "\(step.event)") }
    var plain = try #require(Handshake(words, offer, isEncrypted: false))
    let refused = look(&plain, go, offer, &replies)
    guard case .proceed = refused.event else { return #expect(Bool(false), "\(refused.event)") }
  }
}
