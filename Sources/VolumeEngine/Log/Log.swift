import Base
import DiskFormat

/// The log: what every write enters. Positions are bytes of one endless address space; records
/// follow one another in it; the newest lie in the staging ring, all of them in segments.
///
///     stage ─► open record ─► closed ─► issued ─► completed ─► durable (below the watermark)
///
/// Positions, oldest first:
///
///     generation start ≤ watermark ≤ completedEnd ≤ issuedEnd ≤ closedEnd ≤ open record
///
/// | from → to | by |
/// |---|---|
/// | (nothing) → open record | `openRecord` |
/// | staged → closed | `closeRecord` |
/// | closed → issued | `LogAppend.issueAppends` |
/// | issued → completed | `LogAppend.finishAppend` |
/// | completed → durable | `LogAppend.finishLogFlush` |
///
/// Invariants:
/// - L1: positions are contiguous, each header names the check of the one before it.
/// - L2: an entry is complete in the ring before it is indexed, indexed before it is acknowledged.
/// - L3: bytes are overwritten in the ring only when they are durable.
/// - L4: the watermark never passes what had not completed when the flush was submitted.
/// - L5: a record crosses neither the ring's nor its segment's end.
/// - L6: a log block once submitted is not written again until its segment is recycled.
/// - L7: in the index, the highest position wins; insertion order is position order.
struct Log: ~Copyable {
  private let anchor = Anchor()
  let geometry: LogGeometry
  let seed: PoolSeed
  let incarnation: UInt64
  let ring: StagingRing
  var segments: Segments

  /// The oldest position that the ring still holds for reads.
  var ringTail: LogPosition
  var closedEnd: LogPosition
  var issuedEnd: LogPosition
  var completedEnd: LogPosition
  var watermark: LogPosition
  /// The check of the last closed header.
  var previousCRC: UInt32

  // The open record.
  var isOpen = false
  var recordStart = LogPosition(0)
  /// One past the last byte the open record may fill.
  var recordLimit = LogPosition(0)
  var headerUsed = 0
  var entryCount = 0
  var payloadBlocks = 0
  /// The open record holds ranges, or entries for single blocks without payload. Never both: they
  /// are ordered by position, and neither moves it.
  var recordHasRanges = false
  var recordHasMarks = false
  /// The end of the last record that holds an entry: what a flush has to cover.
  var lastEntryEnd: LogPosition
  /// When the first entry of what is not yet durable was staged.
  var oldestUnflushed: Instant?

  /// The four generations; `oldest` and the following `generationCount` − 1 are in use, the last
  /// of them open.
  let generations: UnsafeMutablePointer<Generation>
  var oldest = 0
  var generationCount = 0
  static let maxGenerations = 4

  // Appends in flight, a flush, and what went wrong; see LogAppend.
  var appends = [4 of Append](repeating: Append())
  var appendsInFlight = 0
  var mustRestart = false
  var restartAt = Instant(nanoseconds: 0)
  var failures = 0
  var round = FlushRound()
  /// Flushes in flight that a round ordered, this one or one that was abandoned.
  var roundFlushes = 0
  /// Everything below shall become durable; `flushGoal` is what the next device flush waits for,
  /// so that a steady stream of requests does not put it off.
  var syncTarget = LogPosition(0)
  var flushGoal = LogPosition(0)
  /// How many of the last writes were each followed by a flush; at 4 or more, appends are eager.
  var flushHabit = 0
  var writesSinceFlush = 0
  /// When the last flush moved the watermark; a watermark record is due soon after.
  var watermarkRecordAt: Instant?
  let headerPages: UnsafeMutableRawPointer
  var footer: FooterBuilder
  /// A rule to break, for the test of the tests.
  let planted: PlantedBug?

  init(
    geometry: LogGeometry, seed: PoolSeed, incarnation: UInt64, ring: StagingRing,
    nextSerial: UInt64, planted: PlantedBug?, in arena: inout Arena
  ) {
    self.planted = planted
    self.geometry = geometry
    self.seed = seed
    self.incarnation = incarnation
    self.ring = ring
    segments = Segments(geometry: geometry, nextSerial: nextSerial, in: &arena)
    ringTail = LogPosition(0)
    closedEnd = LogPosition(0)
    issuedEnd = LogPosition(0)
    completedEnd = LogPosition(0)
    watermark = LogPosition(0)
    previousCRC = 0
    lastEntryEnd = LogPosition(0)
    let sizes = IndexSizes(geometry)
    generations = arena.take(Log.maxGenerations * MemoryLayout<Generation>.stride)
      .bindMemory(to: Generation.self, capacity: Log.maxGenerations)
    for i in 0..<Log.maxGenerations {
      // SAFETY: the memory is the arena's and is initialised once; Generation frees nothing.
      (generations + i).initialize(to: Generation(sizes: sizes, in: &arena))
    }
    headerPages = arena.take(4 * Layout.metadataBlock)
    footer = FooterBuilder(area: geometry.footerArea, in: &arena)
  }

  static func bytes(_ geometry: LogGeometry) -> Int {
    Segments.bytes(geometry) + 4 * IndexSizes(geometry).bytes + (64 << 10)
      + FooterBuilder.bytes(area: geometry.footerArea)
  }

  /// Sets all positions to where recovery has found the log's end.
  mutating func begin(at end: LogPosition, previousCRC: UInt32) {
    ringTail = end
    closedEnd = end
    issuedEnd = end
    completedEnd = end
    watermark = end
    lastEntryEnd = end
    self.previousCRC = previousCRC
  }

  // MARK: Generations

  /// The slot of the `i`-th generation, oldest first.
  func generation(_ i: Int) -> UnsafeMutablePointer<Generation> {
    generations + (oldest + i) & (Log.maxGenerations - 1)
  }

  /// The one that takes entries.
  var current: UnsafeMutablePointer<Generation> { generation(generationCount - 1) }

  mutating func beginGeneration(at position: LogPosition, epoch: Epoch) {
    invariant(generationCount < Log.maxGenerations, "G2: there are at most four generations")
    generationCount += 1
    current.pointee.begin(at: position, previousCRC: previousCRC, epoch: epoch)
  }

  /// Seals the open generation and begins the next; false when all four are in use.
  mutating func seal() -> Bool {
    guard generationCount < Log.maxGenerations else { return false }
    if isOpen { closeRecord() }
    let g = current
    g.pointee.state = .sealed
    g.pointee.end = closedEnd
    beginGeneration(at: closedEnd, epoch: g.pointee.epoch)
    return true
  }

  /// Whether the open generation has taken what it should hold.
  var isSealDue: Bool {
    let g = current
    guard g.pointee.hasEntries else { return false }
    return closedEnd - g.pointee.start >= geometry.capacity / 4
      || g.pointee.index.isNearlyFull
      || g.pointee.tombstones.count * 2 >= g.pointee.sizes.tombstones
      || g.pointee.placedCount * 2 >= g.pointee.placedCapacity
  }

  /// Where the log is replayed from if the process ended now.
  var boundary: LogPosition { generation(0).pointee.start }

  // MARK: Records

  /// Why nothing can be staged now.
  enum Obstacle { case ring, segments, generations, index }

  /// Sees to it that a record is open with room for one entry of `size` bytes and at least
  /// `payload` blocks, and that the index takes `blocks` more. nil: it is.
  /// `reserve` free segments are left alone.
  mutating func prepareEntry(
    size: Int, payload: Int, blocks: Int, reserve: Int
  ) -> Obstacle? {
    if isOpen {
      let fits =
        headerUsed + size <= Layout.metadataBlock && payloadRoom >= payload
        && current.pointee.index.hasRoom(forBlocks: blocks)
        && current.pointee.tombstones.count + 2 < current.pointee.sizes.tombstones
        && current.pointee.placedCount < current.pointee.placedCapacity
      if fits { return nil }
      closeRecord()
    }
    if isSealDue || !current.pointee.index.hasRoom(forBlocks: max(blocks, 64)) {
      if !seal() { return .generations }
    }
    // At an end of ring or segment there may be room for a header alone: it pads.
    repeat {
      if isOpen { closeRecord() }
      if let obstacle = openRecord(reserve: reserve) { return obstacle }
    } while payloadRoom < payload
    return nil
  }

  /// Whole blocks that the open record can still take.
  var payloadRoom: Int {
    (recordLimit - recordStart - geometry.logBlock) / Size.block - payloadBlocks
  }

  mutating func openRecord(reserve: Int) -> Obstacle? {
    let start = closedEnd
    if segments.end == nil || segments.end! == start {
      guard segments.freeCount > reserve else { return .segments }
    }
    var room = min(RecordHeader.maxLength, ring.bytesToEnd(from: start))
    room = min(room, ring.size / 4)
    if let end = segments.end, end > start { room = min(room, end - start) }
    let limit = start + room
    let released = planted == .ringReleasedOnCompletion ? completedEnd : watermark
    guard limit.rawValue <= released.rawValue + UInt64(ring.size) else { return .ring }
    if segments.end == nil || segments.end! == start {
      if segments.count > 0 {
        footer.finish(segments[segments.count - 1], incarnation: incarnation, seed: seed)
      }
      segments.open(at: start)
      footer.begin(at: start, previous: previousCRC)
      recordLimit = start + min(room, geometry.segmentCapacity)
    } else {
      recordLimit = limit
    }
    if recordLimit.rawValue > ringTail.rawValue + UInt64(ring.size) {
      ringTail = LogPosition(recordLimit.rawValue - UInt64(ring.size))
    }
    invariant(ringTail <= released, "L3: only durable bytes leave the ring")
    recordStart = start
    isOpen = true
    headerUsed = RecordHeader.entries
    entryCount = 0
    payloadBlocks = 0
    recordHasRanges = false
    recordHasMarks = false
    RecordHeader.begin(
      ring.pointer(at: start), position: start, incarnation: incarnation,
      previous: planted == .recordWithoutChain ? 0 : previousCRC,
      epoch: current.pointee.epoch)
    return nil
  }

  /// Closes the open record: its length is final, its header sealed.
  mutating func closeRecord() {
    invariant(isOpen, "L1: a record is open")
    let used = geometry.logBlock + payloadBlocks * Size.block
    let length = (used + geometry.logBlock - 1) & ~(geometry.logBlock - 1)
    previousCRC = RecordHeader.close(
      ring.pointer(at: recordStart), watermark: watermark, length: length,
      entryCount: entryCount, seed: seed)
    footer.add(ring.pointer(at: recordStart), entriesEnd: headerUsed)
    closedEnd = recordStart + length
    invariant(closedEnd <= recordLimit, "L5: a record ends within its limit")
    isOpen = false
    if entryCount > 0 { lastEntryEnd = closedEnd }
    if let control = ring.control { RingControl.setClosedEnd(control, closedEnd) }
  }

  /// Where the next entry of the open record goes, and the seed of its check.
  func nextEntry() -> (UnsafeMutableRawPointer, UInt32) {
    (
      ring.pointer(at: recordStart) + headerUsed,
      Entry.seed(
        pool: seed, incarnation: incarnation, position: recordStart,
        previous: planted == .recordWithoutChain ? 0 : previousCRC,
        ordinal: entryCount)
    )
  }

  mutating func finishEntry(size: Int, now: Instant) {
    headerUsed += size
    entryCount += 1
    if oldestUnflushed == nil { oldestUnflushed = now }
    current.pointee.hasEntries = true
  }

  /// The position that a flush must see durable to cover everything staged so far.
  var stagedTarget: LogPosition {
    isOpen && entryCount > 0 ? recordStart + 1 : lastEntryEnd
  }

  /// Where the next payload block goes; the position of an entry without payload.
  var cursor: LogPosition {
    recordStart + (geometry.logBlock + payloadBlocks * Size.block)
  }

  /// Bytes staged and not yet durable.
  var unflushedBytes: Int { (isOpen ? cursor : closedEnd) - watermark }

  /// How full the log is, in thousandths of what may be used before writes wait.
  var fullness: Int {
    let usable = max(1, geometry.segmentCount - 4)
    let used = max(0, geometry.segmentCount - segments.freeCount - 1)
    return min(1000, used * 1000 / usable)
  }

  /// Set in the extent set's key of an extent that has deallocated blocks only: destage comes by,
  /// but no slot is reserved for it.
  static var markFlag: UInt64 { 1 << 50 }

  /// Whether any generation has an entry or a range that may touch the extent.
  func touches(_ extent: ExtentIndex) -> Bool {
    for i in 0..<generationCount {
      let g = generation(i)
      if g.pointee.index.containsExtent(extent) || g.pointee.hasZeros(in: extent) { return true }
    }
    return false
  }

  /// Everything staged so far shall become durable.
  mutating func requestSync() { syncTarget = max(syncTarget, stagedTarget) }

  /// Puts a range of zeros into the index: small ones block by block, others as one tombstone.
  mutating func indexRange(_ blocks: Range<UInt64>, keeps: Bool) -> Bool {
    let g = current
    if blocks.upperBound - blocks.lowerBound <= UInt64(Size.blocksPerExtent) {
      recordHasMarks = true
      for b in blocks {
        let cell = LogCell(kind: keeps ? .reservedZero : .zero, position: cursor, crc: 0)
        if !g.pointee.index.insert(BlockIndex(b), cell) { return false }
      }
      return true
    }
    recordHasRanges = true
    return g.pointee.tombstones.insert(
      Tombstone(
        start: BlockIndex(blocks.lowerBound), end: BlockIndex(blocks.upperBound),
        position: cursor, keepsAllocated: keeps))
  }

  // MARK: Look-up

  /// The newest entry for a block, from the youngest generation on.
  func find(_ block: BlockIndex) -> LogCell? {
    var i = generationCount - 1
    while i >= 0 {
      if let cell = findInGeneration(i, block) { return cell }
      i -= 1
    }
    return nil
  }

  /// The newest entry for a block in one generation.
  func findInGeneration(_ i: Int, _ block: BlockIndex) -> LogCell? {
    let g = generation(i)
    var cell = g.pointee.index.find(block)
    if let number = cell?.placed, cell?.kind == .placed {
      cell?.slot = g.pointee.placed[number].slot
    }
    if g.pointee.tombstones.count > 0, let t = g.pointee.tombstones.find(block) {
      // A tie is between marks of records that hold no ranges and ranges: it cannot be.
      if let cell, cell.position >= t.position, planted != .tombstoneWinsAlways { return cell }
      return LogCell(
        kind: t.keepsAllocated ? .reservedZero : .zero, position: t.position, crc: 0)
    }
    return cell
  }

  /// Whether the ring still holds the payload block at a position.
  func isInRing(_ position: LogPosition) -> Bool { position >= ringTail }
}
