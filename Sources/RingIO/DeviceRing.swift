package import Base
package import DeviceIO

/// A ring with devices on it: what the server's loop turns. Sockets and events go through `ring`,
/// device operations through `submit`; both come back, in the kernel's order, from `nextEvent`.
///
/// Invariants: those of `Ring` (R…) and `DeviceDriver` (W…).
package struct DeviceRing: ~Copyable {
  private let anchor = Anchor()
  package enum Event {
    /// The end of an operation given to `submit`.
    case device(DeviceCompletion)
    /// A completion of an operation that was prepared on `ring` with a tag of the server's.
    case other(RingCompletion)
  }

  package var ring: Ring
  private var driver: DeviceDriver
  private var batch = CompletionBatch()
  private var next = 0
  /// Device operations since the last system call.
  private var prepared = 0
  private static var group: Int { 4 }

  /// Takes the ring over and installs the devices in it. At most `capacity` device operations are
  /// pending, at most `limit` of them in the kernel for one device.
  package init(
    _ ring: consuming Ring, _ devices: DeviceSet, capacity: Int = 4096, limit: Int = 128
  ) {
    driver = DeviceDriver(devices, on: &ring, capacity: capacity, limit: limit)
    self.ring = ring
  }

  /// How many device operations can be submitted now; the engine's queue is drained up to that.
  package var room: Int { driver.room }
  /// Device operations submitted and not yet completed.
  package var pending: Int { driver.pending }
  /// Transfers that had to be continued or tried again, since the start.
  package var resubmissions: UInt64 { driver.resubmissions }

  /// Lets go of the devices, unless an operation is pending. The kernel takes a ring apart some
  /// time after the process has ended; until then what is in its table keeps its owner.
  package mutating func withdraw() {
    if driver.pending == 0 { driver.withdraw(from: &ring) }
  }

  /// Takes a device operation on; there is room. Every fourth goes to the kernel at once: the
  /// block layer holds a submission back until its last entry is prepared, and a device that
  /// idles meanwhile costs more than the calls do (measured: 4-KiB random reads at depth 32 gain
  /// a fifth).
  package mutating func submit(_ operation: DeviceOperation) {
    driver.submit(operation, on: &ring)
    prepared += 1
    if prepared == Self.group { submit() }
  }

  /// Hands everything prepared to the kernel without waiting.
  package mutating func submit() {
    prepared = 0
    ring.submit()
  }

  /// One system call: hands over everything prepared and waits for an event, until `deadline`
  /// (nil: for ever). `now` is the turn's time. A signal ends the wait, too.
  package mutating func submitAndWait(until deadline: Instant?, now: Instant) {
    prepared = 0
    ring.submitAndWait(atMost: deadline?.since(now))
  }

  /// Events were collected that `nextEvent` has not told yet.
  package var hasEvents: Bool { next < batch.count }

  /// The next event, or nil when all that had ended was seen.
  package mutating func nextEvent() -> Event? {
    while true {
      if next == batch.count {
        next = 0
        if ring.drain(&batch) == 0 { return nil }
      }
      let completion = batch[next]
      next += 1
      switch completion.tag.kind {
      case OperationTag.device:
        if let done = driver.finish(completion, on: &ring) { return .device(done) }
      case OperationTag.ignored: continue
      default: return .other(completion)
      }
    }
  }
}
