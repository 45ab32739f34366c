/// What happened, as a seed's story: the last few thousand events, and a hash over all of them,
/// by which two runs of one seed are compared.
package enum TraceKind: UInt8, Sendable {
  /// A request went in: slot, kind and flags, offset, length or version.
  case issue
  /// A request ended: slot, result, error offset, version.
  case reply
  /// The engine ordered a device operation: token, kind and device, offset, length.
  case order
  /// A device operation ended: token, kind and device, offset, result.
  case complete
  /// A fault struck: its kind, device, offset, length.
  case fault
  /// The world's own acts: what, and numbers to it.
  case act
}

package struct TraceEvent: Sendable {
  var kind: TraceKind
  var label: StaticString
  var now: UInt64
  var a: UInt64
  var b: UInt64
  var c: UInt64
  var d: UInt64
}

/// The recorder. Recording costs a store and a few multiplications; words are made only when
/// somebody reads.
package final class Trace {
  /// Print each event as it happens.
  package var isVerbose = false
  /// The virtual time that events are stamped with, in nanoseconds.
  package var now: UInt64 = 0
  /// How many events there were.
  package private(set) var count: UInt64 = 0
  /// A hash over all events.
  package private(set) var hash: UInt64 = 0xcbf2_9ce4_8422_2325

  private var ring: [TraceEvent]
  private let capacity = 1 << 12

  package init() {
    let none = TraceEvent(kind: .act, label: "", now: 0, a: 0, b: 0, c: 0, d: 0)
    ring = Array(repeating: none, count: capacity)
  }

  package func record(
    _ kind: TraceKind, _ label: StaticString, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0,
    _ d: UInt64 = 0
  ) {
    let event = TraceEvent(kind: kind, label: label, now: now, a: a, b: b, c: c, d: d)
    ring[Int(count) & (capacity - 1)] = event
    count &+= 1
    mix(UInt64(kind.rawValue) &+ now)
    mix(a)
    mix(b)
    mix(c)
    mix(d)
    if isVerbose { print(Trace.describe(event)) }
  }

  private func mix(_ value: UInt64) {
    hash = (hash ^ value) &* 0x100_0000_01b3
    hash ^= hash >> 31
  }

  /// The last `limit` events in words, oldest first.
  package func tail(_ limit: Int) -> [String] {
    let kept = min(UInt64(min(limit, capacity)), count)
    return ((count - kept)..<count).map {
      Trace.describe(ring[Int($0) & (capacity - 1)])
    }
  }

  private static func describe(_ event: TraceEvent) -> String {
    let time = String(event.now / 1000)
    let start = String(repeating: " ", count: max(0, 10 - time.count)) + time + " µs "
    switch event.kind {
    case .issue:
      return start + "request  slot \(event.a) \(event.label) offset \(event.b) "
        + "length \(event.c) version \(event.d & 0xffff_ffff) flags \(event.d >> 32)"
    case .reply:
      return start + "reply    slot \(event.a) \(event.label) result \(event.b) "
        + "version \(event.c)"
    case .order:
      return start + "order    \(event.label) token \(event.a) device \(event.b) "
        + "offset \(event.c) length \(event.d)"
    case .complete:
      return start + "complete \(event.label) token \(event.a) device \(event.b) "
        + "offset \(event.c) result \(Int64(bitPattern: event.d))"
    case .fault:
      return start + "fault    \(event.label) device \(event.a) offset \(event.b) "
        + "length \(event.c) \(event.d)"
    case .act:
      return start + "world    \(event.label) \(event.a) \(event.b) \(event.c) \(event.d)"
    }
  }
}

/// Why a seed failed, in whole sentences.
package struct Failure: Error {
  package let message: String
  package init(_ message: String) { self.message = message }
}
