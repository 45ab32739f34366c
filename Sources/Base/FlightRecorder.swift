/// One thing that happened: its kind and up to three numbers, whose meaning the kind decides.
package struct FlightEvent: Sendable, BitwiseCopyable {
  package var time: Instant
  package var kind: UInt16
  package var a: UInt64
  package var b: UInt64
  package var c: UInt64
}

/// The last few thousand things that happened, kept in a ring for the moment something goes
/// wrong. Recording costs a few stores.
package struct FlightRecorder: ~Copyable {
  private let events: UnsafeMutablePointer<FlightEvent>
  private let mask: Int
  /// How many events were recorded, those that have left the ring included.
  package private(set) var recorded = 0

  /// A recorder of the last `capacity` events, a power of two.
  package init(capacity: Int, in arena: inout Arena) {
    invariant(
      capacity > 0 && capacity & (capacity - 1) == 0, "FR1: the capacity is a power of two")
    events = arena.takeArray(of: FlightEvent.self, count: capacity)
    mask = capacity - 1
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(capacity: Int) -> Int {
    Arena.cost(capacity * MemoryLayout<FlightEvent>.stride)
  }

  /// Remembers an event, and forgets the oldest when the ring is full.
  package mutating func record(
    _ kind: UInt16, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0, at time: Instant
  ) {
    // SAFETY: the index is below the capacity taken; the arena outlives the recorder.
    events[recorded & mask] = FlightEvent(time: time, kind: kind, a: a, b: b, c: c)
    recorded &+= 1
  }

  /// The events remembered, one a line, the oldest first. `names` is indexed by kind; a kind
  /// without a name shows its number.
  package func dump(names: [String]) -> String {
    var text = ""
    for i in max(0, recorded - mask - 1)..<recorded {
      let event = events[i & mask]
      let name =
        Int(event.kind) < names.count ? names[Int(event.kind)] : "kind \(event.kind)"
      text += "\(event.time.nanoseconds) \(name) \(event.a) \(event.b) \(event.c)\n"
    }
    return text
  }
}
