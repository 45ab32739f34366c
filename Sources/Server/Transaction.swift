import Base
import NBDProtocol
import VolumeEngine

/// One request of a client from its header to its last reply byte: a slot of a fixed pool.
///
/// It is cut into pieces of at most `VolumeRequest.maxTransfer`, each one request to the engine.
struct Transaction: Linked {
  /// In the connection's ready chain, or in the queue for memory.
  var link: Int32 = -1
  /// The connection, or -1 when it is gone (the transaction then only waits for its pieces).
  var connection: Int32
  var encoder: ReplyEncoder
  var command: CommandType
  var flags: CommandFlags
  var offset: UInt64
  var length: UInt64
  /// Where the next piece begins.
  var nextOffset: UInt64
  /// What it counts against the connection.
  var cost = Cost()
  /// Pieces alive, those being sent included; of these, in the engine or queued for it.
  var pieces = 0
  var inEngine = 0
  /// A read's pieces in order, not sent yet.
  var order = Chain<Piece>()
  var failure: Refusal? = nil
  /// Where in the export it failed.
  var failureOffset: UInt64? = nil
  /// All payload has arrived, or there is none.
  var isReceived = true
  /// Waits in the queue for memory.
  var isWaiting = false
  /// A piece of it is held back, until a DISC comes.
  var isHeld = false
  /// Stands in the ready chain, or is the exclusive one and has something to send.
  var isReady = false
  /// A simple reply's header went out.
  var isHeaderSent = false
  /// The status chunk's descriptors.
  var descriptors = 0
  var context: UInt32 = 0
  /// A status: contexts whose chunks are still to come, as bits of the session's selection.
  var contextsLeft: UInt16 = 0

  var end: UInt64 { offset + length }

  /// Parts of the reply were not asked for yet: of a READ's range, or contexts of a status.
  var hasMore: Bool { command == .read ? nextOffset < end : contextsLeft != 0 }

  init(connection: Int32, _ request: Request, _ command: CommandType, style: ReplyStyle) {
    self.connection = connection
    encoder = ReplyEncoder(style: style, request: request)
    self.command = command
    flags = request.flags
    offset = request.offset
    length = request.length
    nextOffset = request.offset
  }
}

/// What transactions cost while they are alive.
struct Cost {
  var transactions = 0
  /// Of payload that they were admitted with.
  var bytes = 0
  /// Memory that they hold at most until the client has sent what it began to, and has taken what
  /// it asked for; in bytes.
  var memory = 0

  static func += (a: inout Cost, b: Cost) {
    a.transactions += b.transactions
    a.bytes += b.bytes
    a.memory += b.memory
  }

  static func -= (a: inout Cost, b: Cost) {
    a.transactions -= b.transactions
    a.bytes -= b.bytes
    a.memory -= b.memory
  }
}

/// One request to the engine, with its memory: a slot of a fixed pool.
struct Piece: Linked {
  enum State: UInt8 { case free, filling, queued, submitted, done, failed, sent }

  /// In the transaction's order while it waits to be sent, in the connection's chain while sent.
  var link: Int32 = -1
  var generation: UInt32 = 0
  var state = State.free
  var transaction: Int32 = -1
  var offset: UInt64 = 0
  var length = 0
  /// Bytes already handed to sends.
  var cursor = 0
  /// When sent, the memory goes on to the transaction's next piece.
  var isReused = false
  /// From the buffer pool, `memoryBytes` of it; nil for a request without data.
  var memory: UnsafeMutableRawPointer? = nil
  var memoryBytes = 0
  /// Set bits are blocks with nothing mapped: none, until the engine fills it. The slot's own, for
  /// ever.
  let holes: UnsafeMutablePointer<UInt64>
  static var holeWords: Int { 5 }

  init(holes: UnsafeMutablePointer<UInt64>) {
    self.holes = holes
    holes.update(repeating: 0, count: Self.holeWords)
  }

  /// The client's first byte in the memory: blocks of the volume are pages of memory.
  var data: UnsafeMutableRawPointer { memory.unsafelyUnwrapped + Int(offset & 4095) }

  /// Blocks that a range touches.
  static func blocks(_ offset: UInt64, _ length: Int) -> Int {
    (Int(offset & 4095) + length + 4095) >> 12
  }

  /// The first piece of a range that begins at `offset`: it touches at most as many blocks as
  /// `memory` bytes hold.
  static func length(at offset: UInt64, of rest: UInt64, in memory: Int) -> Int {
    min(Int(clamping: rest), memory - Int(offset & 4095))
  }
}

extension Piece {
  /// Runs of holes shorter than this many blocks are sent as the zeros they read as: a chunk's
  /// header costs both sides more than copying a little.
  static var leastHole: Int { 4 }

  private func isHole(_ block: Int) -> Bool { holes[block >> 6] >> UInt64(block & 63) & 1 == 1 }

  private func holeRun(_ block: Int, _ blocks: Int) -> Int {
    var end = block
    while end < blocks && isHole(end) { end += 1 }
    return end - block
  }

  /// The run of data or hole that begins at byte `at` of the piece.
  func run(from at: Int) -> (length: Int, isHole: Bool) {
    let shift = Int(offset & 4095)
    let blocks = Piece.blocks(offset, length)
    let first = (shift + at) >> 12
    let run = holeRun(first, blocks)
    if run == blocks || run >= Piece.leastHole {
      return (min(length, (first + run) << 12 - shift) - at, true)
    }
    var end = first
    while end < blocks {
      let hole = holeRun(end, blocks)
      if hole >= Piece.leastHole { break }
      end += max(1, hole)
    }
    return (min(length, end << 12 - shift) - at, false)
  }
}
