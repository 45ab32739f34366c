/// Sizes as people write and read them.
package enum SizeText {
  /// Why a text is not a size.
  package enum Problem: Error, Sendable { case form, overflow }

  private static let units: [(name: String, shift: UInt64)] = [
    ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40),
  ]

  /// Reads `"512MiB"`, `"16 GiB"`: a whole number and a unit, KiB to TiB. Bytes.
  package static func parse(_ text: String) throws(Problem) -> UInt64 {
    guard let unit = units.first(where: { text.hasSuffix($0.name) }) else { throw .form }
    var digits = text.dropLast(3)
    if digits.last == " " { digits.removeLast() }
    guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else {
      throw .form
    }
    guard let number = UInt64(digits), number <= UInt64(Int64.max) >> unit.shift else {
      throw .overflow
    }
    return number << unit.shift
  }

  /// The form that `parse` reads back to the same number, in the largest unit that divides it.
  package static func exact(_ bytes: UInt64) -> String {
    for unit in units.reversed() where bytes > 0 && bytes & (1 << unit.shift - 1) == 0 {
      return "\(bytes >> unit.shift)\(unit.name)"
    }
    return bytes == 1 ? "1 byte" : "\(bytes) bytes"
  }

  /// About three significant digits, for tables and progress: `1.46 GiB`.
  package static func rounded(_ bytes: UInt64) -> String {
    guard let unit = units.last(where: { bytes >= 1 << $0.shift }) else { return "\(bytes) B" }
    let whole = bytes >> unit.shift
    let rest = bytes & (1 << unit.shift - 1)
    let digits = whole < 10 ? 2 : whole < 100 ? 1 : 0
    let scale: UInt64 = digits == 2 ? 100 : 10
    if digits == 0 { return "\(whole) \(unit.name)" }
    // The remainder is below 2^40, so that the product cannot overflow.
    let fraction = String((rest * scale) >> unit.shift)
    let zeros = String(repeating: "0", count: digits - fraction.count)
    return "\(whole).\(zeros)\(fraction) \(unit.name)"
  }
}
