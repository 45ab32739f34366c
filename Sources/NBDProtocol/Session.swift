/// What a handshake ended with: all that parsing, validating and replying need to know of a
/// connection. A trivial value.
package struct Session: Equatable, Sendable, BitwiseCopyable {
  package let style: ReplyStyle
  package let selection: MetaSelection
  /// Bytes of the export now: it may have grown since the handshake.
  package var exportSize: UInt64
  package private(set) var isReadOnly: Bool
  /// The client was told that no payload is longer.
  package private(set) var advertisedPayload: UInt32
  /// The payload a WRITE may carry and a READ may ask for.
  package private(set) var acceptedPayload: UInt32
  /// The longest READ with DF.
  package let unfragmentedRead: UInt32
  /// The identifiers of the selected contexts, by position in `selection`.
  package let contextIDs: InlineArray<16, UInt32>

  package init(
    style: ReplyStyle, selection: MetaSelection, export: borrowing Export,
    limits: borrowing Limits
  ) {
    self.style = style
    self.selection = selection
    exportSize = export.size
    isReadOnly = export.isReadOnly
    advertisedPayload = limits.advertisedPayload
    acceptedPayload = limits.acceptedPayload
    unfragmentedRead = limits.unfragmentedRead
    var ids = InlineArray<16, UInt32>(repeating: 0)
    for i in 0..<selection.count { ids[i] = export.contexts[selection[i]].id }
    contextIDs = ids
  }

  /// What the client was told of an export that was offered otherwise: it keeps to that. What has
  /// become read-only is so for it, too.
  mutating func keep(isReadOnly: Bool, advertisedPayload: UInt32) {
    self.isReadOnly = self.isReadOnly || isReadOnly
    self.advertisedPayload = advertisedPayload
    acceptedPayload = max(acceptedPayload, advertisedPayload)
  }

  /// Bytes of a request's header ("Request message").
  package var requestHeader: Int { style == .extended ? 32 : 28 }

  /// The position of a context identifier in the selection, nil when it was not selected.
  func position(of id: UInt32) -> Int? {
    for i in 0..<selection.count where contextIDs[i] == id { return i }
    return nil
  }

  /// Both go on alike: contexts in the same order included.
  package static func == (a: Session, b: Session) -> Bool {
    guard
      a.style == b.style, a.selection.count == b.selection.count,
      a.exportSize == b.exportSize, a.isReadOnly == b.isReadOnly,
      a.advertisedPayload == b.advertisedPayload, a.acceptedPayload == b.acceptedPayload,
      a.unfragmentedRead == b.unfragmentedRead
    else { return false }
    for i in 0..<a.selection.count
    where a.selection[i] != b.selection[i] || a.contextIDs[i] != b.contextIDs[i] {
      return false
    }
    return true
  }
}
