/// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT` ("Metadata querying").
///
/// A query names a context of the export's table. In a LIST, a query that ends with a colon is
/// a wildcard for all contexts it begins; in a SET it selects nothing. What matches nothing is
/// ignored. Contexts of more than 32 bits are not there without extended headers.
extension Handshake {
  func listContexts(
    _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter, _ offer: borrowing Offer
  ) {
    let option = OptionType.listMetaContext.rawValue
    var reader = OptionReader(data)
    var found = MetaSelection()
    guard let queries = beginContexts(option, &reader, &replies, offer) else { return }
    if queries.count == 0 {
      for index in offer.export.contexts.indices where isAvailable(index, offer) {
        guard found.insert(index) else { break }
      }
    }
    for _ in 0..<queries.count {
      guard let query = reader.takeString(limit: offer.limits.stringBytes) else { break }
      for index in offer.export.contexts.indices
      where isAvailable(index, offer)
        && Self.matches(query, offer.export.contexts[index].name, wildcards: true)
      {
        guard found.insert(index) else { return tooMany(option, &replies) }
      }
    }
    // The identifier is reserved in a LIST and zero.
    for i in 0..<found.count {
      writeContext(option, id: 0, offer.export.contexts[found[i]].name, &replies)
    }
    replies.plain(option, .ack)
  }

  /// Replaces the selection, also when it fails.
  mutating func setContexts(
    _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter, _ offer: borrowing Offer
  ) {
    let option = OptionType.setMetaContext.rawValue
    selection = MetaSelection()
    selectedFor = nil
    guard style != .simple else {
      replies.error(option, .invalid, "structured replies or extended headers come first")
      return
    }
    var reader = OptionReader(data)
    var found = MetaSelection()
    guard let queries = beginContexts(option, &reader, &replies, offer) else { return }
    for _ in 0..<queries.count {
      guard let query = reader.takeString(limit: offer.limits.stringBytes) else { break }
      for index in offer.export.contexts.indices
      where isAvailable(index, offer)
        && Self.matches(query, offer.export.contexts[index].name, wildcards: false)
      {
        guard found.insert(index), found.count <= offer.limits.metaContexts else {
          return tooMany(option, &replies)
        }
      }
    }
    for i in 0..<found.count {
      let context = offer.export.contexts[found[i]]
      writeContext(option, id: context.id, context.name, &replies)
    }
    replies.plain(option, .ack)
    guard !replies.overflowed else { return }
    selection = found
    selectedFor = queries.name
  }

  /// The common beginning: the export's name and the number of queries, which are well-formed. nil
  /// when answered. The form is judged before what is asked for.
  private func beginContexts(
    _ option: UInt32, _ reader: inout OptionReader, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) -> (name: ChosenName, count: UInt32)? {
    guard let bytes = reader.takeString(limit: offer.limits.stringBytes),
      let count = reader.take32()
    else {
      malformed(option, &replies)
      return nil
    }
    var ahead = reader
    var left = count
    // Each takes four bytes at least: it ends with the data.
    while left > 0, ahead.takeString(limit: offer.limits.stringBytes) != nil { left -= 1 }
    guard left == 0, ahead.remaining == 0 else {
      malformed(option, &replies)
      return nil
    }
    guard let name = chosenName(bytes, offer.export) else {
      replies.error(option, .unknown, "no such export")
      return nil
    }
    guard count <= offer.limits.metaQueries else {
      replies.error(option, .tooBig, "too many queries")
      return nil
    }
    return (name, count)
  }

  private func isAvailable(_ index: Int, _ offer: borrowing Offer) -> Bool {
    style == .extended || !offer.export.contexts[index].isWide
  }

  /// Whether a query means a context.
  static func matches(
    _ query: UnsafeRawBufferPointer, _ name: [UInt8], wildcards: Bool
  ) -> Bool {
    if OptionReader.equal(query, name) { return true }
    guard wildcards, query.last == UInt8(ascii: ":"), query.count < name.count else {
      return false
    }
    for i in 0..<query.count where query[i] != name[i] { return false }
    return true
  }

  private func writeContext(
    _ option: UInt32, id: UInt32, _ name: [UInt8], _ replies: inout OptionReplyWriter
  ) {
    guard let data = replies.begin(option, .metaContext, length: 4 + name.count) else { return }
    data.putBig32(0, id)
    name.withUnsafeBytes { (data + 4).copyBytes(from: $0) }
  }

  private func malformed(_ option: UInt32, _ replies: inout OptionReplyWriter) {
    replies.error(option, .invalid, "the option's data is malformed")
  }

  private func tooMany(_ option: UInt32, _ replies: inout OptionReplyWriter) {
    replies.error(option, .tooBig, "too many contexts")
  }
}
