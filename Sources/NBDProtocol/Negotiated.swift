/// What a connection has negotiated, in words that another server process understands: for handing
/// the connection over. Names instead of numbers, so that both may be of different versions.
package struct Negotiated: Codable, Equatable, Sendable {
  package enum Stage: String, Codable, Sendable { case awaitingFlags, haggling, transmission }

  package var stage: Stage
  /// The client wants 124 zeros behind the answer to EXPORT_NAME.
  package var sendsZeroes: Bool
  /// The client understands replies to options.
  package var isFixed: Bool
  /// `simple`, `structured` or `extended`.
  package var style: String
  /// Names of the selected contexts, in their order.
  package var contexts: [String]
  /// Whether these were selected for the empty name of the export; nil without a selection.
  package var isForEmptyName: Bool?
  /// Options so far.
  package var options: Int
  /// In transmission: whether the client was told that the export is read-only.
  package var isReadOnly: Bool?
  /// In transmission: the longest payload that the client was told of, in bytes.
  package var advertisedPayload: UInt32?

  fileprivate init(
    _ stage: Stage, _ style: ReplyStyle, _ selection: MetaSelection, _ export: Export
  ) {
    self.stage = stage
    sendsZeroes = true
    isFixed = true
    self.style = "\(style)"
    contexts = (0..<selection.count).map {
      String(decoding: export.contexts[selection[$0]].name, as: UTF8.self)
    }
    isForEmptyName = nil
    options = 0
  }

  fileprivate var replyStyle: ReplyStyle? {
    [ReplyStyle.simple, .structured, .extended].first { "\($0)" == style }
  }

  /// nil when the export has not all of the contexts.
  fileprivate func selection(in export: Export) -> MetaSelection? {
    var selection = MetaSelection()
    for name in contexts {
      guard
        let index = export.contexts.firstIndex(where: { $0.name.elementsEqual(name.utf8) }),
        selection.insert(index)
      else { return nil }
    }
    return selection
  }
}

extension Handshake {
  /// What has been negotiated so far; nil once it is over.
  package func negotiated(_ offer: Offer) -> Negotiated? {
    guard state != .finished else { return nil }
    var value = Negotiated(
      state == .awaitingFlags ? .awaitingFlags : .haggling, style, selection, offer.export)
    value.sendsZeroes = sendsZeroes
    value.isFixed = isFixed
    value.isForEmptyName = selectedFor.map { $0 == .empty }
    value.options = options
    return value
  }

  /// Goes on where another server has stopped; nil when that was no handshake of this export.
  package init?(_ value: Negotiated, _ offer: Offer, isEncrypted: Bool) {
    guard value.stage != .transmission, let style = value.replyStyle,
      let selection = value.selection(in: offer.export), value.options >= 0
    else { return nil }
    self.init()
    self.isEncrypted = isEncrypted
    state = value.stage == .awaitingFlags ? .awaitingFlags : .haggling
    sendsZeroes = value.sendsZeroes
    isFixed = value.isFixed
    self.style = style
    self.selection = selection
    selectedFor = value.isForEmptyName.map { $0 ? .empty : .canonical }
    options = value.options
  }
}

extension Session {
  /// What was negotiated.
  package func negotiated(_ export: Export) -> Negotiated {
    var value = Negotiated(.transmission, style, selection, export)
    value.isReadOnly = isReadOnly
    value.advertisedPayload = advertisedPayload
    return value
  }

  /// Goes on where another server has stopped; nil when the export cannot do what was negotiated.
  package init?(_ value: Negotiated, _ offer: Offer) {
    guard value.stage == .transmission, let style = value.replyStyle,
      let selection = value.selection(in: offer.export), let isReadOnly = value.isReadOnly,
      let advertisedPayload = value.advertisedPayload, advertisedPayload >= 4096
    else { return nil }
    self.init(style: style, selection: selection, export: offer.export, limits: offer.limits)
    keep(isReadOnly: isReadOnly, advertisedPayload: advertisedPayload)
  }
}
