/// Counts of durations in log-linear buckets: 16 to each power of two, so a percentile is at most
/// 1/16 too high. It covers 0 to 2^40 ns (18 minutes); what is longer counts in the last bucket.
///
/// A plain value of 4.7 KiB: recording allocates nothing, a copy is a snapshot.
package struct Histogram: Sendable {
  private static var bucketCount: Int { 592 }

  private var buckets = InlineArray<592, UInt64>(repeating: 0)
  /// How many durations were recorded.
  package private(set) var count: UInt64 = 0
  /// Their sum in nanoseconds, wrapping after 584 years.
  package private(set) var sum: UInt64 = 0
  /// The longest in nanoseconds, exact; 0 when nothing was recorded.
  package private(set) var maximum: UInt64 = 0

  package init() {}

  /// Counts one duration.
  package mutating func record(nanoseconds: UInt64) {
    buckets[Self.bucket(of: nanoseconds)] &+= 1
    count &+= 1
    sum &+= nanoseconds
    if nanoseconds > maximum { maximum = nanoseconds }
  }

  /// Adds what `other` counted.
  package mutating func merge(_ other: borrowing Histogram) {
    for i in 0..<Self.bucketCount { buckets[i] &+= other.buckets[i] }
    count &+= other.count
    sum &+= other.sum
    maximum = max(maximum, other.maximum)
  }

  /// The duration in nanoseconds that `perMille` of 1000 recorded ones do not exceed, rounded up
  /// to the end of its bucket but never above `maximum`; 0 when nothing was recorded.
  package func percentile(perMille: Int) -> UInt64 {
    invariant((0...1000).contains(perMille), "H1: a percentile lies between 0 and 1000 per mille")
    let product = count.multipliedFullWidth(by: UInt64(perMille))
    let quotient = UInt64(1000).dividingFullWidth(product)
    let rank = max(1, quotient.quotient + (quotient.remainder == 0 ? 0 : 1))
    var seen: UInt64 = 0
    for i in 0..<Self.bucketCount {
      seen &+= buckets[i]
      if seen >= rank { return min(Self.end(of: i), maximum) }
    }
    return maximum
  }

  /// The mean in nanoseconds, rounded down; 0 when nothing was recorded.
  package var mean: UInt64 { count == 0 ? 0 : sum / count }

  private static func bucket(of nanoseconds: UInt64) -> Int {
    if nanoseconds < 16 { return Int(nanoseconds) }
    let exponent = 63 - nanoseconds.leadingZeroBitCount
    if exponent > 39 { return bucketCount - 1 }
    return (exponent - 3) << 4 | Int(nanoseconds >> UInt64(exponent - 4) & 15)
  }

  /// The longest duration that falls into bucket `i`.
  private static func end(of i: Int) -> UInt64 {
    if i < 16 { return UInt64(i) }
    if i == bucketCount - 1 { return .max }
    let shift = UInt64(i >> 4 - 1)
    return (UInt64(i & 15 | 16) + 1) << shift - 1
  }
}
