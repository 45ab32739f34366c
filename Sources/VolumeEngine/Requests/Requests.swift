import Base
import DeviceIO

/// One request under way. The engine holds a fixed number of them.
struct RequestSlot {
  enum State: UInt8 {
    case free
    /// Reads, and RMW writes: pieces are being read, or a page is.
    case reading
    /// Waits its turn to be staged in the log.
    case queued
    /// Staged (or nothing to stage): waits until the watermark passes `target`.
    case flushing
    /// Block status: walking.
    case walking
    /// Whole extents are being written straight to slots.
    case placing
    /// Waits for an earlier request that touches the same blocks.
    case behind
  }

  var request = VolumeRequest(.flush, cookie: 0)
  var state = State.free
  var result = RequestResult.done
  var attempts: UInt8 = 0
  var needsRetry = false
  var hasWaitedForSpace = false
  /// Stands in `Arrivals`.
  var isArriving = false
  /// The next block to look up, stage or describe.
  var cursor: UInt64 = 0
  /// Pieces in flight.
  var pending: Int32 = 0
  var errorOffset: UInt64 = 0
  var target = LogPosition(0)
  var descriptors: UInt32 = 0
  /// A block status: look-ups so far.
  var lookups: UInt32 = 0
  /// Whole extents that lie in slots and have no entry yet; those whose write counts for nothing.
  var placed: UInt16 = 0
  var placedInVain: UInt16 = 0
  /// Sub-block writes: whole copies of the first and last block, where they were read from.
  var head = PartialBlock()
  var tail = PartialBlock()
}

/// A block that a write covers in part.
struct PartialBlock {
  enum State: UInt8 { case none, needed, reading, ready }
  var state = State.none
  var block: UInt64 = 0
  /// A page from the engine's pool; -1 for none.
  var page: Int32 = -1
  /// Where the base came from: compared when it is staged.
  var source = BlockSource.zero
}

/// Where a block's newest content is.
enum BlockSource: Equatable {
  /// In the ring, at a position.
  case ring(LogPosition, crc: UInt32)
  /// In a segment of the log.
  case logDevice(LogPosition, crc: UInt32)
  /// In a slot, its own or a placed one.
  case slot(SlotAddress, crc: UInt32)
  /// Reads as zeros; a hole when nothing is allocated.
  case zero
  case hole
  case lost
  /// The table's page cannot be had now.
  case failed
  /// Come again when this frame has loaded, or (−1) when a frame is free.
  case wait(FrameIndex)
}

/// A piece of a read in flight: blocks that lie together on a device.
struct ReadPiece {
  var request: Int32 = -1
  var firstBlock: UInt64 = 0
  var count: Int32 = 0
  var device: UInt8 = 0
  var isLog = false
  var side: UInt8 = 0
  /// Which of the two reader counts it is in (see `ReadPins`).
  var pin: UInt8 = 0
  var next: Int32 = -1
}

/// Counts readers in two alternating halves, so that *everyone who was reading before now has
/// finished* can be asked without naming anyone.
struct ReadPins {
  private var active: (Int, Int) = (0, 0)
  private var current: UInt8 = 0
  private var waitsFor: UInt8? = nil

  mutating func enter() -> UInt8 {
    if current == 0 { active.0 += 1 } else { active.1 += 1 }
    return current
  }

  mutating func leave(_ pin: UInt8) {
    if pin == 0 { active.0 -= 1 } else { active.1 -= 1 }
    invariant(active.0 >= 0 && active.1 >= 0, "R2: a reader leaves once")
  }

  /// Begins to wait for all present readers; false when they are being waited for already and
  /// the other half is not empty.
  mutating func beginGrace() -> Bool {
    if waitsFor != nil { return true }
    let other: UInt8 = 1 - current
    guard (other == 0 ? active.0 : active.1) == 0 else { return false }
    waitsFor = current
    current = other
    return true
  }

  /// Whether those waited for have finished.
  mutating func finishGrace() -> Bool {
    guard let w = waitsFor else { return false }
    guard (w == 0 ? active.0 : active.1) == 0 else { return false }
    waitsFor = nil
    return true
  }
}

/// Sizes of the engine's pools, and the waiters' numbering.
enum Pools {
  static let requests = 1024
  static let pieces = 1024
  static let pieceBlocks = 64
  static let pages = 256
  static let jobs = 96
  static let sweepWaiter = Waiter(rawValue: Int32(requests + jobs))
  static let scanWaiter = Waiter(rawValue: Int32(requests + jobs + 1))
  static let waiters = requests + jobs + 2
  static let orders = 8192
  static let replies = 2048

  /// What the pools take from the arena, at most.
  static var bytes: Int {
    Arena.cost(requests * MemoryLayout<RequestSlot>.stride)
      + Arena.cost(pieces * MemoryLayout<ReadPiece>.stride)
      + Arena.cost(pieces * pieceBlocks * 4) + Arena.cost(pages << 12) + Arena.cost(pages * 4)
      + Arena.cost(replies * MemoryLayout<VolumeReply>.stride)
      + Arena.cost(orders * MemoryLayout<DeviceOperation>.stride)
      + WaiterLinks.bytes(count: waiters) + Arrivals.bytes
  }
}

/// What an operation's token says: kind, number, and one byte of detail.
enum Token {
  enum Kind: UInt8 {
    case piece = 1, append, segmentHeader, deviceFlush, pageRead, pageWrite, jobRead, jobWrite,
      superblock, unitRead, placed, repair, footer
  }

  static func make(_ kind: Kind, _ index: Int, _ detail: Int = 0) -> UInt64 {
    UInt64(kind.rawValue) << 56 | UInt64(truncatingIfNeeded: detail) << 32
      | UInt64(UInt32(truncatingIfNeeded: index))
  }

  static func kind(_ token: UInt64) -> Kind? { Kind(rawValue: UInt8(token >> 56)) }
  static func index(_ token: UInt64) -> Int { Int(token & 0xffff_ffff) }
  static func detail(_ token: UInt64) -> Int { Int(token >> 32 & 0xff_ffff) }
}
