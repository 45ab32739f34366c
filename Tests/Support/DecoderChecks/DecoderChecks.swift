import NBDProtocol

/// Which decoder gets some bytes, chosen by their first one:
///
/// | byte | decoder | its bytes |
/// |---|---|---|
/// | `a` | stream of a connection, handshake and requests | as a client sends them; no TLS |
/// | `b` | the same | TLS is switched off |
/// | `c` | the same | TLS is offered |
/// | `d` | the same | TLS is required |
/// | `e` | the same | the server is shutting down |
/// | `f` | the same | read-only, low limits, long names |
/// | `g` `h` `i` | requests: simple, structured, extended | as a client sends them after GO |
/// | `j` `k` | status descriptors: structured, extended | pairs of words; then REQ_ONE's length |
/// | `l` | label | up to 4 KiB, zeros follow |
/// | `m` | superblock | the same |
/// | `n` | header of a log segment | the same |
/// | `o` | record's header with its entries | the same |
/// | `p` | footer of a log segment | all of it |
/// | `q` | page of a tree, its records and entries | up to 4 KiB, zeros follow |
/// | `r` | control page of a staging ring | the same |
/// | `s` `t` | HTTP: request, response | all of it |
/// | `u` | configuration | its text |
/// | `v` | size, identity | its text |
/// | `w` | messages of a handover | as they come over its socket |
/// | `x` | a connection that is handed over | its description, in JSON |
/// | `y` | TLS | as a client sends it behind STARTTLS |
/// | `z` | shared keys | their file |
package enum DecoderCheck: Character, CaseIterable, Sendable {
  case stream = "a"
  case streamTLSForbidden = "b"
  case streamTLSOffered = "c"
  case streamTLSRequired = "d"
  case streamShuttingDown = "e"
  case streamNarrow = "f"
  case simpleRequests = "g"
  case structuredRequests = "h"
  case extendedRequests = "i"
  case structuredDescriptors = "j"
  case extendedDescriptors = "k"
  case label = "l"
  case superblock = "m"
  case segmentHeader = "n"
  case recordHeader = "o"
  case segmentFooter = "p"
  case page = "q"
  case ringControl = "r"
  case httpRequest = "s"
  case httpResponse = "t"
  case configuration = "u"
  case words = "v"
  case handoverMessages = "w"
  case handedConnection = "x"
  case tls = "y"
  case sharedKeys = "z"

  /// The decoder that the first byte of `input` names.
  package init?(of input: UnsafeRawBufferPointer) {
    guard let first = input.first else { return nil }
    self.init(rawValue: Character(UnicodeScalar(first)))
  }

  /// Gives all but the first byte of `input` to the decoder it names, and checks what it must keep
  /// to; a rule that is broken ends the process. False when no decoder is named.
  package static func run(_ input: UnsafeRawBufferPointer) -> Bool {
    guard let decoder = DecoderCheck(of: input) else { return false }
    decoder.run(UnsafeRawBufferPointer(rebasing: input.dropFirst()))
    return true
  }

  private func run(_ bytes: UnsafeRawBufferPointer) {
    if let start = conversation { return Conversation.checkSplits(bytes, start) }
    switch self {
    case .structuredDescriptors: checkDescriptors(bytes, .structured)
    case .extendedDescriptors: checkDescriptors(bytes, .extended)
    case .label: DiskChecks.label(bytes)
    case .superblock: DiskChecks.superblock(bytes)
    case .segmentHeader: DiskChecks.segmentHeader(bytes)
    case .recordHeader: DiskChecks.recordHeader(bytes)
    case .segmentFooter: DiskChecks.segmentFooter(bytes)
    case .page: DiskChecks.page(bytes)
    case .ringControl: DiskChecks.ringControl(bytes)
    case .httpRequest: TextChecks.httpRequest(bytes)
    case .httpResponse: TextChecks.httpResponse(bytes)
    case .configuration: TextChecks.configuration(bytes)
    case .words: TextChecks.words(bytes)
    case .handoverMessages: SocketChecks.handoverMessages(bytes)
    case .handedConnection: SocketChecks.handedConnection(bytes, .example())
    case .tls: SocketChecks.tls(bytes)
    case .sharedKeys: SocketChecks.sharedKeys(bytes)
    default: break
    }
  }

  /// How a conversation begins, for the decoders that are one.
  package var conversation: Conversation.Start? {
    switch self {
    case .stream: .handshake(.example())
    case .streamTLSForbidden: .handshake(.example(.forbidden))
    case .streamTLSOffered: .handshake(.example(.offered))
    case .streamTLSRequired: .handshake(.example(.required))
    case .streamShuttingDown: .handshake(.example(isShuttingDown: true))
    case .streamNarrow: .handshake(.narrow)
    case .simpleRequests: .transmission(.example(.simple))
    case .structuredRequests: .transmission(.example(.structured))
    case .extendedRequests: .transmission(.example(.extended))
    default: nil
    }
  }
}

extension Offer {
  /// An export `vol` of 1 GiB with contexts of all kinds.
  fileprivate static func example(
    _ tls: TLSMode = .unavailable, isShuttingDown: Bool = false
  ) -> Offer {
    var export = Export(name: "vol", description: "a volume", size: 1 << 30)
    export.contexts = [
      .allocation, .allocationDepth, .dirtyBitmap(snapshot: "monday", id: 16), .tier,
      MetaContext(id: 9, name: "x-wide:all", isWide: true),
    ]
    var offer = Offer(export: export, limits: Limits())
    offer.tls = tls
    offer.isShuttingDown = isShuttingDown
    return offer
  }

  /// The same, read-only, where limits are soon met, and where a list of all contexts does not fit
  /// into one reply.
  fileprivate static var narrow: Offer {
    var offer = Offer.example()
    offer.export.isReadOnly = true
    offer.export.isRotational = true
    offer.export.size = 3 << 20
    for i in 0..<5 {
      let name = String(repeating: "x", count: 4000) + "\(i)"
      offer.export.contexts.append(.dirtyBitmap(snapshot: name, id: UInt32(20 + i)))
    }
    offer.limits.options = 4
    offer.limits.optionData = 96
    offer.limits.stringBytes = 20
    offer.limits.metaQueries = 3
    offer.limits.metaContexts = 2
    offer.limits.acceptedPayload = 4096
    offer.limits.unfragmentedRead = 512
    return offer
  }
}

extension Session {
  /// Transmission as that style begins it, with the contexts that it can have.
  fileprivate static func example(_ style: ReplyStyle) -> Session {
    let offer = Offer.example()
    var selection = MetaSelection()
    if style != .simple {
      for index in [3, 0] { check(selection.insert(index), "there is room") }
      if style == .extended { check(selection.insert(4), "there is room") }
    }
    return Session(
      style: style, selection: selection, export: offer.export, limits: offer.limits)
  }
}

/// Pairs of 64-bit words, as the machine has them, become descriptors; eight bytes behind the last
/// whole pair are the limit of REQ_ONE.
private func checkDescriptors(_ bytes: UnsafeRawBufferPointer, _ style: ReplyStyle) {
  let count = bytes.count / 16
  let words = (0..<(bytes.count / 8)).map {
    bytes.loadUnaligned(fromByteOffset: 8 * $0, as: UInt64.self)
  }
  let limit = words.count % 2 == 0 ? nil : max(1, words[words.count - 1])
  let expected = descriptors(words, count, style, only: limit)
  let fence = Fence(capacity: bytes.count)
  let memory = fence.copy(UnsafeRawBufferPointer(rebasing: bytes[..<(16 * count)]))
  let written = StatusDescriptors.encode(
    memory.baseAddress!, count: count, style: style, only: limit)
  check(written == expected.count, "as many descriptors as there are")
  let read = UnsafeRawBufferPointer(memory)
  for (i, (length, flags)) in expected.enumerated() {
    if style == .extended {
      check(read.big64(16 * i) == length && read.big64(16 * i + 8) == flags, "descriptor \(i)")
    } else {
      check(UInt64(read.big32(8 * i)) == length, "length of descriptor \(i)")
      check(read.big32(8 * i + 4) == UInt32(truncatingIfNeeded: flags), "flags of \(i)")
    }
  }
}

/// The same once more, written for being read: joined, then cut.
private func descriptors(
  _ words: [UInt64], _ count: Int, _ style: ReplyStyle, only limit: UInt64?
) -> [(UInt64, UInt64)] {
  var joined: [(length: UInt64, flags: UInt64)] = []
  for i in 0..<count where words[2 * i] > 0 {
    let (length, flags) = (words[2 * i], words[2 * i + 1])
    let sum = (joined.last?.length ?? 0).addingReportingOverflow(length)
    if joined.last?.flags == flags && !sum.overflow {
      joined[joined.count - 1].length = sum.partialValue
    } else {
      joined.append((length, flags))
    }
  }
  if let limit, let first = joined.first { joined = [(min(first.length, limit), first.flags)] }
  let most: UInt64 = 0xffff_f000
  if style == .structured, let i = joined.firstIndex(where: { $0.length > most }) {
    joined[i].length = most
    joined.removeSubrange((i + 1)...)
  }
  return joined.map { ($0.length, $0.flags) }
}
