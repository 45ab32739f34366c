/// The options that choose an export and a reply style ("Option types").
extension Handshake {
  /// Which of its two names the bytes are, nil when the export is not called so.
  func chosenName(_ name: UnsafeRawBufferPointer, _ export: borrowing Export) -> ChosenName? {
    if name.count == 0 { return .empty }
    return OptionReader.equal(name, export.name) ? .canonical : nil
  }

  /// `NBD_OPT_EXPORT_NAME`: no errors can be said, refusing is closing.
  mutating func exportName(
    _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter, _ offer: borrowing Offer
  ) -> HandshakeEvent {
    guard style != .extended, data.count <= offer.limits.stringBytes,
      let name = chosenName(data, offer.export)
    else { return .close(.exportNameRefused) }
    let session = makeSession(for: name, offer)
    guard let answer = replies.raw(length: sendsZeroes ? 134 : 10) else {
      return .close(.exportNameRefused)
    }
    answer.putBig64(0, offer.export.size)
    answer.putBig16(8, offer.export.flags(style, contexts: session.selection.count).rawValue)
    if sendsZeroes {
      (answer + 10).initializeMemory(as: UInt8.self, repeating: 0, count: 124)
    }
    return .transmission(session)
  }

  /// `NBD_OPT_LIST`: the one export and its description.
  func list(
    _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter, _ offer: borrowing Offer
  ) {
    let option = OptionType.list.rawValue
    guard data.isEmpty else {
      replies.error(option, .invalid, "LIST carries no data")
      return
    }
    let name = offer.export.name
    let description = offer.export.description
    guard
      let reply = replies.begin(
        option, .server, length: 4 + name.count + description.count)
    else { return }
    reply.putBig32(0, UInt32(name.count))
    name.withUnsafeBytes { (reply + 4).copyBytes(from: $0) }
    description.withUnsafeBytes { (reply + 4 + name.count).copyBytes(from: $0) }
    replies.plain(option, .ack)
  }

  /// `NBD_OPT_STARTTLS` ("NOTLS mode", "FORCEDTLS mode", "SELECTIVETLS mode").
  func startTLS(
    _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter, _ offer: borrowing Offer
  ) -> HandshakeEvent {
    let option = OptionType.startTLS.rawValue
    // First of all, since the mode may have changed after this client began TLS.
    guard !isEncrypted else {
      replies.error(option, .invalid, "STARTTLS comes once")
      return .proceed
    }
    switch offer.tls {
    case .unavailable:
      replies.error(option, .unsupported, "TLS is not available")
      return .proceed
    case .forbidden:
      replies.error(option, .policy, "TLS is switched off")
      return .proceed
    case .offered, .required: break
    }
    guard data.isEmpty, isFixed else {
      replies.error(option, .invalid, "STARTTLS carries no data, and comes from fixed clients")
      return .proceed
    }
    replies.plain(option, .ack)
    return .startTLS
  }

  /// `NBD_OPT_STRUCTURED_REPLY` and `NBD_OPT_EXTENDED_HEADERS`. Asking again changes nothing.
  mutating func choose(
    _ type: OptionType, _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter
  ) {
    guard data.isEmpty else {
      replies.error(type.rawValue, .invalid, "this option carries no data")
      return
    }
    if type == .extendedHeaders {
      style = .extended
    } else if style == .extended {
      replies.error(
        type.rawValue, .extendedHeadersRequired, "extended headers are in use already")
      return
    } else {
      style = .structured
    }
    replies.plain(type.rawValue, .ack)
  }

  /// `NBD_OPT_INFO` and `NBD_OPT_GO`. All that is known is told, asked for or not; the list of
  /// requests is only checked for its form.
  mutating func infoOrGo(
    _ type: OptionType, _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) -> HandshakeEvent {
    var reader = OptionReader(data)
    guard let bytes = reader.takeString(limit: offer.limits.stringBytes),
      let requests = reader.take16(), reader.remaining == Int(requests) * 2
    else {
      replies.error(type.rawValue, .invalid, "the option's data is malformed")
      return .proceed
    }
    guard let name = chosenName(bytes, offer.export) else {
      replies.error(type.rawValue, .unknown, "no such export")
      return .proceed
    }
    let session = makeSession(for: name, offer)
    writeInfo(type.rawValue, session, &replies, offer)
    replies.plain(type.rawValue, .ack)
    return type == .go ? .transmission(session) : .proceed
  }

  /// The four information items of `NBD_REP_INFO`.
  private func writeInfo(
    _ option: UInt32, _ session: Session, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) {
    let export = offer.export
    if let item = replies.begin(option, .info, length: 12) {
      item.putBig16(0, InfoType.export.rawValue)
      item.putBig64(2, export.size)
      item.putBig16(10, export.flags(style, contexts: session.selection.count).rawValue)
    }
    writeText(option, .name, export.name, &replies)
    writeText(option, .description, export.description, &replies)
    if let item = replies.begin(option, .info, length: 14) {
      item.putBig16(0, InfoType.blockSize.rawValue)
      item.putBig32(2, export.minimumBlock)
      item.putBig32(6, export.preferredBlock)
      item.putBig32(10, offer.limits.advertisedPayload)
    }
  }

  private func writeText(
    _ option: UInt32, _ type: InfoType, _ text: [UInt8], _ replies: inout OptionReplyWriter
  ) {
    guard let item = replies.begin(option, .info, length: 2 + text.count) else { return }
    item.putBig16(0, type.rawValue)
    text.withUnsafeBytes { (item + 2).copyBytes(from: $0) }
  }

  /// What was negotiated, for an export chosen by that name: contexts count for the same name only.
  private func makeSession(for name: ChosenName, _ offer: borrowing Offer) -> Session {
    Session(
      style: style, selection: selectedFor == name ? selection : MetaSelection(),
      export: offer.export, limits: offer.limits)
  }
}

extension UnsafeMutableRawPointer {
  /// Copies all of `source` here; an empty source has no address.
  func copyBytes(from source: UnsafeRawBufferPointer) {
    guard let start = source.baseAddress else { return }
    copyMemory(from: start, byteCount: source.count)
  }
}
