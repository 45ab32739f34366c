import Base

/// Replies to options, written one after the other into the caller's memory ("Fixed newstyle
/// negotiation"). What does not fit is remembered as an overflow, never written.
package struct OptionReplyWriter {
  private let memory: UnsafeMutableRawPointer
  private let capacity: Int
  /// Bytes written.
  package private(set) var count = 0
  /// Something did not fit since the last `rewind`.
  private(set) var overflowed = false

  /// SAFETY: the caller owns the memory and keeps it while the writer is used.
  package init(_ memory: UnsafeMutableRawBufferPointer) {
    invariant(memory.count >= Handshake.replyCapacity, "N6: a step's replies fit")
    self.memory = memory.baseAddress!
    capacity = memory.count
  }

  static let header = 20

  /// The header of one reply with `length` bytes of data; where they go, or nil without room.
  mutating func begin(
    _ option: UInt32, _ type: OptionReply, length: Int
  ) -> UnsafeMutableRawPointer? {
    guard length <= capacity - count - Self.header else {
      overflowed = true
      return nil
    }
    let start = memory + count
    start.putBig64(0, Magic.optionReply)
    start.putBig32(8, option)
    start.putBig32(12, type.rawValue)
    start.putBig32(16, UInt32(length))
    count += Self.header + length
    return start + Self.header
  }

  /// A reply without data.
  mutating func plain(_ option: UInt32, _ type: OptionReply) {
    _ = begin(option, type, length: 0)
  }

  /// An error reply with a text for people.
  mutating func error(_ option: UInt32, _ type: OptionReply, _ text: StaticString) {
    guard let data = begin(option, type, length: text.utf8CodeUnitCount) else { return }
    data.copyMemory(from: text.utf8Start, byteCount: text.utf8CodeUnitCount)
  }

  /// Bytes that belong to no option's reply (EXPORT_NAME's answer).
  mutating func raw(length: Int) -> UnsafeMutableRawPointer? {
    guard length <= capacity - count else {
      overflowed = true
      return nil
    }
    defer { count += length }
    return memory + count
  }

  /// Forgets what was written behind `mark`, a former `count`.
  mutating func rewind(to mark: Int) {
    count = mark
    overflowed = false
  }
}
