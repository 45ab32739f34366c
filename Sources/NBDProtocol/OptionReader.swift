/// Reads one option's data from front to back. Every read is checked against what is left (N1).
struct OptionReader {
  private var rest: UnsafeRawBufferPointer

  init(_ data: UnsafeRawBufferPointer) { rest = data }

  /// Bytes not read yet.
  var remaining: Int { rest.count }

  mutating func take16() -> UInt16? {
    guard let bytes = take(2) else { return nil }
    return bytes.baseAddress!.big16(0)
  }

  mutating func take32() -> UInt32? {
    guard let bytes = take(4) else { return nil }
    return bytes.baseAddress!.big32(0)
  }

  /// A length of 32 bits and a string of so many bytes; nil when it is cut short, longer than
  /// `limit`, holds a NUL or is no UTF-8 ("Conventions").
  mutating func takeString(limit: Int) -> UnsafeRawBufferPointer? {
    guard let length = take32(), length <= limit, let bytes = take(Int(length)),
      Self.isText(bytes)
    else { return nil }
    return bytes
  }

  private mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
    guard count <= rest.count else { return nil }
    let bytes = UnsafeRawBufferPointer(rebasing: rest[..<count])
    rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    return bytes
  }

  /// Whether the bytes are UTF-8 without NUL.
  static func isText(_ bytes: UnsafeRawBufferPointer) -> Bool {
    for byte in bytes where byte == 0 { return false }
    return bytes.withMemoryRebound(to: UInt8.self) {
      do throws(UTF8.ValidationError) {
        _ = try UTF8Span(validating: $0.span)
        return true
      } catch {
        return false
      }
    }
  }

  /// Whether two runs of bytes are equal.
  static func equal(_ bytes: UnsafeRawBufferPointer, _ other: [UInt8]) -> Bool {
    guard bytes.count == other.count else { return false }
    for i in 0..<bytes.count where bytes[i] != other[i] { return false }
    return true
  }
}
