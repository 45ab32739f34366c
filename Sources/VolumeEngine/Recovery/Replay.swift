import Base
import DeviceIO
import DiskFormat

/// Finding the log's end: which segments hold which positions, how far everything is durable, and
/// where the prefix ends.
struct Replay {
  let io: SyncIO
  let superblock: Superblock
  let ring: StagingRing?
  let seed: PoolSeed
  let geometry: LogGeometry
  /// Segments that hold the positions from the boundary on, contiguous.
  var chosen: [Segment] = []
  /// From which position each of them counts.
  private(set) var from: [LogPosition] = []
  var freeSegments: [Int] = []
  /// Those of `chosen` that begin below the watermark.
  var durable: [Segment] = []
  /// Segments that hold only what is appended again: free when that is durable.
  var sources: [Int] = []
  /// There are not enough free segments to append again into.
  var mustStayInPlace: Bool {
    ring == nil && freeSegments.count < (end - watermark) / geometry.segmentCapacity + 2
  }
  /// Records that may lie above the watermark, as the first walk met them.
  private var recent: [LogPosition] = []
  var nextSerial: UInt64 = 1
  /// Below it everything is durable.
  var watermark = LogPosition(0)
  /// One past the last record of the prefix.
  var end = LogPosition(0)
  var entryCount: UInt64 = 0
  private let reader: LogReader
  private var saved: AlignedBuffer?
  /// By the first position of their segments: the footers that are believed.
  private(set) var footers: [LogPosition: SegmentFooter] = [:]
  let usesFooters: Bool
  var planted: PlantedBug?

  /// Without `usesFooters` every record is looked at.
  init(io: SyncIO, superblock: Superblock, ring: StagingRing?, usesFooters: Bool) {
    self.usesFooters = usesFooters
    self.io = io
    self.superblock = superblock
    self.ring = ring
    seed = PoolSeed(superblock.pool)
    geometry = superblock.log
    reader = LogReader(io: io, geometry: superblock.log)
  }

  // MARK: First pass

  mutating func findEnd(planted: PlantedBug?) throws(OpenError) {
    self.planted = planted
    let headers = try readHeaders()
    choose(headers, olderWins: planted == .olderSegmentWins)
    reader.segments = chosen
    let ringMark = ring?.control.map { RingControl.watermark($0) }
    watermark = max(superblock.watermark, ringMark ?? LogPosition(0))
    let candidates = usesFooters ? readFooters() : [:]
    for footer in candidates.values { watermark = max(watermark, footer.watermark) }
    let (chainEnd, chainCRC) = try walkDevice(until: ringMark, candidates)
    if chainEnd < watermark {
      throw OpenError(
        .damagedLog,
        "the log is damaged at position \(chainEnd.rawValue), below the durable position "
          + "\(watermark.rawValue): acknowledged and flushed writes would be lost. Restore the "
          + "first tier's first device, or run `thermocline check` for what is left.")
    }
    if let ring, let ringMark {
      end = try walkRing(ring, from: ringMark, previous: chainCRC)
    } else {
      end = planted == .payloadNotVerified ? chainEnd : try verifiedEnd(through: chainEnd)
    }
    if ring == nil { try save() }
    durable = Array(chosen.prefix(from.prefix { $0 < watermark }.count))
    chosen = Array(chosen.prefix(from.prefix { $0 < end }.count))
    let used = Set(chosen.map(\.index))
    freeSegments = (0..<geometry.segmentCount).filter { !used.contains($0) }
    sources = chosen[durable.count...].map(\.index)
    if ring != nil {
      // The ring holds what is appended again: these segments may be written at once.
      freeSegments += sources
      sources = []
    }
  }

  /// Takes what lies above the watermark into memory: its segments will be written anew.
  private mutating func save() throws(OpenError) {
    guard end > watermark else { return }
    let buffer = AlignedBuffer(end - watermark)
    var at = watermark
    while at < end {
      guard let header = try reader.bytes(at: at, Layout.metadataBlock) else { break }
      let length = RecordHeader.length(header)
      guard let p = try reader.bytes(at: at, length) else { break }
      (buffer.base + (at - watermark)).copyMemory(from: p, byteCount: length)
      at = at + length
    }
    saved = buffer
  }

  /// All valid segment headers.
  private mutating func readHeaders() throws(OpenError) -> [(Int, SegmentHeader)] {
    var found: [(Int, SegmentHeader)] = []
    let group = 64
    let buffer = AlignedBuffer(group * Layout.metadataBlock)
    var first = 0
    while first < geometry.segmentCount {
      let n = min(group, geometry.segmentCount - first)
      let operations = (0..<n).map {
        DeviceOperation(
          .read, device: DeviceIndex(0), offset: geometry.segmentOffset(first + $0),
          length: Layout.metadataBlock, memory: buffer.base + $0 * Layout.metadataBlock, token: 0)
      }
      let results = io.attempt(operations)
      for i in 0..<n {
        if results[i] < 0 {
          throw OpenError(
            .device,
            "the header of log segment \(first + i) cannot be read (errno \(-results[i])); "
              + "nothing was changed, try again when the device answers")
        }
        let p = buffer.base + i * Layout.metadataBlock
        if let h = try? SegmentHeader.decode(p, index: UInt32(first + i), seed: seed) {
          found.append((first + i, h))
        }
      }
      first += n
    }
    return found
  }

  /// From the boundary on: for each position the segment with the highest serial that covers it.
  private mutating func choose(_ headers: [(Int, SegmentHeader)], olderWins: Bool) {
    nextSerial = max(
      superblock.nextSegmentSerial, (headers.map { $0.1.serial }.max() ?? 0) + 1)
    var at = superblock.boundary
    while true {
      var best: (Int, SegmentHeader)? = nil
      for h in headers
      where h.1.start <= at && at < h.1.start + geometry.segmentCapacity {
        if best == nil || (h.1.serial > best!.1.serial) != olderWins { best = h }
      }
      guard let best else { return }
      var stop = best.1.start + geometry.segmentCapacity
      if !olderWins {
        for h in headers where h.1.serial > best.1.serial && h.1.start > at && h.1.start < stop {
          stop = h.1.start
        }
      }
      from.append(at)
      chosen.append(
        Segment(
          index: best.0, serial: best.1.serial, start: best.1.start, end: stop,
          headerWritten: true))
      at = stop
    }
  }

  /// Follows the chain of headers from the boundary to `limit`, or to the first that is not valid.
  /// Where a footer tells all of a segment, and all of it is durable, the walk leaps.
  private mutating func walkDevice(
    until limit: LogPosition?, _ candidates: [LogPosition: SegmentFooter]
  ) throws(OpenError) -> (LogPosition, UInt32) {
    var at = superblock.boundary
    var previous = superblock.boundaryCRC
    var incarnation: UInt64 = 0
    while limit == nil || at < limit! {
      if at >= superblock.watermark { incarnation = max(incarnation, superblock.incarnation) }
      if let footer = candidates[at], footer.previous == previous,
        footer.incarnation >= incarnation,
        footer.end <= watermark || planted == .footerBelievedEarly
      {
        footers[at] = footer
        recent.append(at)
        incarnation = footer.incarnation
        previous = footer.check
        at = footer.end
        continue
      }
      if planted == .recordWithoutChain { previous = 0 }
      if planted == .recordWithoutIncarnation { incarnation = 0 }
      guard let header = try reader.bytes(at: at, Layout.metadataBlock),
        RecordHeader.isValid(
          header, position: at, previous: previous, incarnation: incarnation,
          logBlock: geometry.logBlock, seed: seed)
      else { return (at, previous) }
      watermark = max(watermark, RecordHeader.watermark(header))
      recent.append(at)
      incarnation = RecordHeader.incarnation(header)
      previous = RecordHeader.check(header)
      at = at + RecordHeader.length(header)
    }
    return (at, previous)
  }

  /// Where the first record above the watermark with bad payload begins, else `chainEnd`.
  private mutating func verifiedEnd(
    through chainEnd: LogPosition
  ) throws(OpenError) -> LogPosition {
    var at = recent.last { $0 <= watermark } ?? superblock.boundary
    let buffer = AlignedBuffer(Size.extent)
    while at < chainEnd {
      guard let header = try reader.bytes(at: at, Layout.metadataBlock) else { return at }
      let length = RecordHeader.length(header)
      if at + length > watermark {
        guard let record = try reader.bytes(at: at, length) else { return at }
        var walk = EntryWalk(record, pool: seed, planted: nil)
        var block = 0
        while let entry = walk.next() {
          if entry.kind == .placed, planted != .placedNotVerified,
            try !isWhole(entry, buffer)
          {
            return at
          }
          guard entry.kind == .data else { continue }
          for i in 0..<entry.count {
            let p = record + geometry.logBlock + block << 12
            let inside = geometry.logBlock + (block + 1) << 12 <= length
            guard inside, Checksum.crc32c(p, Size.block) == entry.crc(i) else { return at }
            block += 1
          }
        }
        if walk.found < RecordHeader.entryCount(record) { return at }
      }
      at = at + length
    }
    return chainEnd
  }

  // MARK: Records of the prefix

  /// The header of a record of the prefix (SAFETY: valid until the next call).
  mutating func record(at position: LogPosition) throws(OpenError) -> UnsafeRawPointer {
    if let p = inMemory(position) { return p }
    guard let p = try reader.bytes(at: position, Layout.metadataBlock) else {
      throw OpenError(.damagedLog, "position \(position.rawValue) of the log is in no segment")
    }
    return p
  }

  /// A record above the watermark: in the old ring, or saved.
  func inMemory(_ position: LogPosition) -> UnsafeRawPointer? {
    guard position >= watermark else { return nil }
    if let ring { return UnsafeRawPointer(ring.pointer(at: position)) }
    return saved.map { UnsafeRawPointer($0.base + (position - watermark)) }
  }
}
