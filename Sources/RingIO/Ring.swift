internal import CURing
import Base
import Glibc

/// One io_uring: the only way to devices and sockets on the data path.
///
/// Its turn, driven by the loop:
///
///     prepare operations ─► submitAndWait ─► drain … drain ─► (owners handle completions) ─► …
///
/// Preparing fills submission entries in shared memory; one system call hands all of them to the
/// kernel and waits for completions; draining copies them out. Nothing is allocated after `init`
/// except by `register` and `install`, which belong to set-up and to accepting a connection.
///
/// Feature by feature the ring falls back when the kernel refuses, and says so in `notes`:
///
/// | wanted | kernel | else |
/// |---|---|---|
/// | `SINGLE_ISSUER`, `DEFER_TASKRUN` | 6.1 | `COOP_TASKRUN` (5.19), then neither |
/// | multishot accept | 5.19 | one accept at a time (`hasMore` is false: arm it again) |
/// | registered files | 5.19 (sparse) | plain descriptors |
/// | registered memory | 5.19 (sparse), `RLIMIT_MEMLOCK` | plain direct I/O |
///
/// Invariants:
/// - R1: a ring is made, used and destroyed on one thread (`SINGLE_ISSUER`).
/// - R2: the memory of an operation, message headers included, lives until its completion.
/// - R3: the kernel takes every entry that was prepared; it fails `io_uring_enter` only for a
///   passing reason (signal, memory, completions not yet drained).
/// - R4: a registered region is forgotten only when no operation uses it.
/// - R5: no completion is lost: `NODROP` is required, and owners bound what they have in flight.
package struct Ring: ~Copyable {
  /// Kernel and liburing keep pointers into it: it lies on the heap and never moves.
  let ring: UnsafeMutablePointer<io_uring>
  let regions: UnsafeMutablePointer<RegisteredRegion>
  var regionCount = 0
  let bufferCapacity: UInt32
  var bufferCount: UInt32 = 0
  let freeFiles: UnsafeMutablePointer<Int32>
  var freeFileCount = 0
  let hasMultishotAccept: Bool
  /// What this ring does without, each a complete sentence for the server's log.
  package internal(set) var notes: [String] = []

  /// Makes a ring for the calling thread (R1).
  package init(_ options: RingOptions = RingOptions()) throws(RingError) {
    let made = try Ring.make(options)
    ring = made.ring
    hasMultishotAccept = made.level < 2
    notes = made.notes
    regions = .allocate(capacity: Ring.maximumRegions)
    freeFiles = .allocate(capacity: Int(options.files))
    bufferCapacity = min(options.buffers, 1024)
    registerTables(files: options.files)
    // The registered descriptor saves the kernel a look-up per call; nothing is lost without it.
    _ = io_uring_register_ring_fd(ring)
  }

  deinit {
    io_uring_queue_exit(ring)
    ring.deallocate()
    regions.deallocate()
    freeFiles.deallocate()
  }

  /// Hands everything prepared to the kernel and waits until a completion is there, `nanoseconds`
  /// have passed (nil: for ever; 0: only collect what has ended), or a signal came.
  package mutating func submitAndWait(atMost nanoseconds: UInt64?) {
    var first: UnsafeMutablePointer<io_uring_cqe>? = nil
    let result: Int32
    switch nanoseconds {
    case nil:
      result = io_uring_submit_and_wait_timeout(ring, &first, 1, nil, nil)
    case 0?:
      result = io_uring_submit_and_get_events(ring)
    case let limit?:
      var time = __kernel_timespec(
        tv_sec: Int64(limit / 1_000_000_000), tv_nsec: Int64(limit % 1_000_000_000))
      result = io_uring_submit_and_wait_timeout(ring, &first, 1, &time, nil)
    }
    if result < 0 { check(result) }
  }

  /// Hands everything prepared to the kernel without waiting.
  package mutating func submit() {
    let result = io_uring_submit(ring)
    if result < 0 { check(result) }
  }

  /// Takes up to 64 completions out; 0 when there are none.
  package mutating func drain(_ batch: inout CompletionBatch) -> Int {
    var entries = InlineArray<64, UnsafeMutablePointer<io_uring_cqe>?>(repeating: nil)
    var span = entries.mutableSpan
    // SAFETY: the entries stay valid until the advance below gives them back to the kernel.
    let count = span.withUnsafeMutableBufferPointer {
      io_uring_peek_batch_cqe(ring, $0.baseAddress, UInt32(CompletionBatch.capacity))
    }
    for i in 0..<Int(count) {
      let entry = entries[i].unsafelyUnwrapped
      batch.items[i] = RingCompletion(
        tag: OperationTag(rawValue: entry.pointee.user_data), result: entry.pointee.res,
        flags: entry.pointee.flags)
    }
    io_uring_cq_advance(ring, count)
    batch.count = Int(count)
    return Int(count)
  }

  /// An empty submission entry; hands full queues to the kernel first.
  mutating func entry() -> UnsafeMutablePointer<io_uring_sqe> {
    if let free = io_uring_get_sqe(ring) { return free }
    while true {
      let result = io_uring_submit(ring)
      if result < 0 { check(result) }
      if let free = io_uring_get_sqe(ring) { return free }
    }
  }

  private func check(_ result: Int32) {
    switch -result {
    case EINTR, ETIME: return
    case EAGAIN, EBUSY, ENOMEM:
      // The kernel is short of memory, or holds completions back that do not fit: let it post them.
      _ = io_uring_get_events(ring)
    default: invariant(false, "R3: io_uring_enter fails only for a passing reason")
    }
  }
}

extension Ring {
  private struct Made {
    let ring: UnsafeMutablePointer<io_uring>
    let level: Int
    let notes: [String]
  }

  private static func make(_ options: RingOptions) throws(RingError) -> Made {
    let common = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP
    let levels = [
      common | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
      common | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      common,
    ]
    let words = [
      "", "The kernel has no DEFER_TASKRUN (6.1): using COOP_TASKRUN.",
      "The kernel has no COOP_TASKRUN (5.19): completions interrupt the loop's thread.",
    ]
    let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
    var result: Int32 = 0
    for (level, flags) in levels.enumerated() where level >= options.withoutNewest {
      ring.initialize(to: io_uring())
      var parameters = io_uring_params()
      parameters.flags = UInt32(flags)
      parameters.cq_entries = max(options.completions, options.entries)
      result = io_uring_queue_init_params(options.entries, ring, &parameters)
      if result == -EINVAL { continue }
      if result < 0 { break }
      let needed = UInt32(IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG)
      if ring.pointee.features & needed == needed {
        return Made(ring: ring, level: level, notes: level == 0 ? [] : [words[level]])
      }
      io_uring_queue_exit(ring)
      result = -EINVAL
      break
    }
    ring.deallocate()
    throw RingError(
      cause: SystemError("io_uring_setup", code: -result), advice: advice(for: -result))
  }

  private static func advice(for code: Int32) -> String {
    switch code {
    case EPERM:
      "io_uring is forbidden: see the sysctl kernel.io_uring_disabled, or the container's "
        + "seccomp profile."
    case ENOSYS: "This kernel is built without io_uring: Linux 5.11 or newer is needed."
    case EINVAL: "This kernel's io_uring is too old: Linux 5.11 or newer is needed."
    case ENOMEM: "Raise the limit of locked memory (LimitMEMLOCK, ulimit -l)."
    case EMFILE, ENFILE: "Raise the limit of open files (LimitNOFILE, ulimit -n)."
    default: "Without io_uring nothing can be done."
    }
  }
}
