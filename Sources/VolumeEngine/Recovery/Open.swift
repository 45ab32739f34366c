package import Base
package import DeviceIO
import DiskFormat

/// Opening: superblocks, ring, bitmaps, log; then, before a single request is served, what is not
/// surely durable is appended again, flushed, and both superblocks name the new incarnation.
///
///     superblocks ─► made equal ─► ring or none ─► bitmaps ─► first pass (end of the prefix)
///       ─► second pass (index) ─► new ring ─► append again, flush ─► superblocks ─► serving
///
/// - O1: nothing but the superblocks is written before the prefix's end is known.
/// - O2: below the watermark a bad record is damage; above it the first bad one is the end.
/// - O3: everything above the watermark is appended again, whatever the device reads back.
/// - O4: a record at or above the superblock's watermark has the superblock's incarnation.
extension Volume {
  /// Opens the pool on `devices`, which the caller owns (locked) and keeps: recovers what the log
  /// and this boot's staging ring hold, and makes it durable before it returns. The engine's memory
  /// comes from `arena`, as `options.memory` has planned it. Throws when the pool cannot be opened
  /// without losing what was acknowledged; nothing but the superblocks may have been written then.
  package static func open(
    devices: any WaitingDevices, staging: any StagingStore, arena: inout Arena,
    options: VolumeOptions, policy: any PlacementPolicy, now: Instant
  ) throws(OpenError) -> Volume {
    let io = SyncIO(devices: devices)
    var events = EventQueue()
    var superblock = try PoolFormat.readSuperblock(
      io, repair: true, planted: options.planted, events: &events)
    if options.volumeSize > superblock.volumeSize {
      events.push(.grown(from: superblock.volumeSize, to: options.volumeSize))
      superblock.volumeSize = options.volumeSize
    }
    let old = try oldRing(superblock, staging, options)
    let incarnation = superblock.incarnation + 1
    // A crash while opening or shutting down leaves rings that nothing names any more.
    for id in (incarnation > 8 ? incarnation - 8 : 1)...incarnation where id != superblock.ringID {
      staging.remove(pool: superblock.pool, ring: id)
    }
    let size = options.memory.ringBytes
    let ring: StagingRing
    if let memory = staging.create(
      pool: superblock.pool, ring: incarnation, size: size + RingControl.bytes)
    {
      let base = memory.baseAddress!
      ring = StagingRing(control: base, data: base + RingControl.bytes, size: size)
    } else {
      events.push(.ringAbsent)
      // SAFETY: outside of the arena it lives as long as the process: there is one volume.
      let data =
        arena.capacity - arena.used > options.memory.engineBytes + size
        ? arena.take(size)
        : UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
      ring = StagingRing(control: nil, data: data, size: size)
    }
    var volume = Volume(
      superblock: superblock, incarnation: incarnation, ring: ring, devices: devices,
      staging: staging, arena: &arena, options: options, policy: policy, now: now)
    volume.events = events
    try volume.loadBitmaps(io)
    var replay = Replay(io: io, superblock: superblock, ring: old, usesFooters: true)
    try replay.findEnd(planted: options.planted)
    try volume.index(&replay)
    try volume.makeDurable(&replay, io)
    if superblock.ringID != 0 {
      staging.remove(pool: superblock.pool, ring: superblock.ringID)
    }
    volume.note(.recovered(entries: replay.entryCount, fromRing: old != nil))
    return volume
  }

  /// This boot's staging ring, nil when none is needed.
  private static func oldRing(
    _ superblock: Superblock, _ staging: any StagingStore, _ options: VolumeOptions
  ) throws(OpenError) -> StagingRing? {
    guard !superblock.isClean, superblock.ringID != 0, superblock.bootID == options.bootID else {
      return nil
    }
    guard let memory = staging.open(pool: superblock.pool, ring: superblock.ringID) else {
      if options.acceptLostRing { return nil }
      throw OpenError(
        .lostRing,
        "the staging ring \(superblock.pool).\(superblock.ringID) of this boot is gone, and with "
          + "it acknowledged writes. Put it back, or start with --accept-lost-ring to go on with "
          + "what the devices hold.")
    }
    let base = memory.baseAddress!
    let size = memory.count - RingControl.bytes
    guard size > 0, size & (size - 1) == 0,
      RingControl.isValid(base, pool: superblock.pool, ring: superblock.ringID, size: size)
    else {
      throw OpenError(
        .damagedRing,
        "the staging ring \(superblock.pool).\(superblock.ringID) is not what this pool expects. "
          + "Put the right one back, or remove it and start with --accept-lost-ring.")
    }
    return StagingRing(control: base, data: base + RingControl.bytes, size: size)
  }

  /// The parts, empty, over memory of the arena.
  private init(
    superblock: Superblock, incarnation: UInt64, ring: StagingRing, devices: any WaitingDevices,
    staging: any StagingStore, arena: inout Arena, options: VolumeOptions,
    policy: any PlacementPolicy, now: Instant
  ) {
    self.superblock = superblock
    self.options = options
    self.policy = policy
    self.staging = staging
    self.now = now
    ringID = ring.control == nil ? 0 : incarnation
    size = superblock.volumeSize
    let count = superblock.devices.count
    geometries = (0..<count).map { devices.geometry(of: DeviceIndex($0)) }
    log = Log(
      geometry: superblock.log, seed: PoolSeed(superblock.pool), incarnation: incarnation,
      ring: ring, nextSerial: superblock.nextSegmentSerial, planted: options.planted, in: &arena)
    table = ExtentTable(
      superblock: superblock,
      frameCount: max(64, options.memory.cacheBytes / Layout.metadataBlock), in: &arena)
    allocator = Allocator(superblock: superblock, in: &arena)
    placed = Placed(superblock.log, in: &arena)
    batch = Batch(log: superblock.log, unitBytes: options.memory.unitBytes, in: &arena)
    waiters = WaiterLinks(count: Pools.waiters, in: &arena)
    orders = OperationQueue(capacity: Pools.orders, in: &arena)
    requests = arena.takeArray(of: RequestSlot.self, count: Pools.requests)
    pieces = arena.takeArray(of: ReadPiece.self, count: Pools.pieces)
    pieceCRCs = arena.takeArray(of: UInt32.self, count: Pools.pieces * Pools.pieceBlocks)
    arrivals = Arrivals(in: &arena)
    pages = arena.take(Pools.pages << 12)
    pageLinks = arena.takeArray(of: Int32.self, count: Pools.pages)
    replies = arena.takeArray(of: VolumeReply.self, count: Pools.replies)
    for i in 0..<Pools.requests {
      requests[i] = RequestSlot()
      waiters.append(Waiter(rawValue: Int32(i)), to: &freeRequests)
    }
    freeRequestCount = Pools.requests
    for i in 0..<Pools.pieces {
      pieces[i] = ReadPiece(next: Int32(i) - 1)
    }
    firstFreePiece = Int32(Pools.pieces - 1)
    for i in 0..<Pools.pages { pageLinks[i] = Int32(i) - 1 }
    firstFreePage = Int32(Pools.pages - 1)
    freePageCount = Pools.pages
    lastWrite = now
    lastTick = now
  }

  // MARK: Index, second pass

  /// Goes through the prefix again and fills the generations: by the footers where they are
  /// believed, else record by record.
  private mutating func index(_ replay: inout Replay) throws(OpenError) {
    log.closedEnd = superblock.boundary
    log.previousCRC = superblock.boundaryCRC
    log.beginGeneration(at: superblock.boundary, epoch: superblock.epoch)
    let buffer = AlignedBuffer(superblock.log.footerArea)
    while log.closedEnd < replay.end {
      let at = log.closedEnd
      if let footer = replay.footer(at: at, buffer) {
        var place = SegmentFooter.header
        while let record = FooterRecord.next(buffer.base, &place) {
          try indexRecord(
            &replay, EntryWalk(record, pool: log.seed), record.entryCount, record.length,
            record.check)
        }
        guard log.closedEnd == footer.end else {
          throw OpenError(
            .damagedLog,
            "the footer of the log segment at position \(at.rawValue) tells of records up to "
              + "\(log.closedEnd.rawValue), not to \(footer.end.rawValue)")
        }
      } else {
        let header = try replay.record(at: at)
        try indexRecord(
          &replay, EntryWalk(header, pool: log.seed, planted: options.planted),
          RecordHeader.entryCount(header), RecordHeader.length(header),
          RecordHeader.check(header))
      }
    }
  }

  /// Indexes the record at the end of what has been indexed.
  private mutating func indexRecord(
    _ replay: inout Replay, _ entries: EntryWalk, _ entryCount: Int, _ length: Int,
    _ check: UInt32
  ) throws(OpenError) {
    let at = log.closedEnd
    if log.isSealDue || !log.current.pointee.hasRoom(for: entries.demand()) {
      if !log.seal(), !log.current.pointee.hasRoom(for: entries.demand()) {
        throw OpenError(
          .memory, "the log at position \(at.rawValue) holds more than its index takes")
      }
    }
    log.recordStart = at
    log.payloadBlocks = 0
    var walk = entries
    while let entry = walk.next() {
      replay.entryCount += 1
      try indexEntry(entry, at)
    }
    guard walk.found == entryCount else {
      throw OpenError(
        .damagedLog,
        "the record at position \(at.rawValue) has \(entryCount) entries, but only "
          + "\(walk.found) are whole")
    }
    log.previousCRC = check
    log.closedEnd = at + length
  }

  private mutating func indexEntry(_ entry: EntryView, _ at: LogPosition) throws(OpenError) {
    guard entry.extent.rawValue < (size + 65535) >> 16 else {
      throw OpenError(
        .damagedLog,
        "an entry at position \(at.rawValue) names an extent beyond the volume's end")
    }
    let g = log.current
    g.pointee.hasEntries = true
    switch entry.kind {
    case .data:
      for i in 0..<entry.count {
        let cell = LogCell(kind: .payload, position: log.cursor, crc: entry.crc(i))
        let ok = g.pointee.index.insert(entry.extent.block(entry.first + i), cell)
        guard ok else { throw OpenError(.memory, "the log holds more than its index takes") }
        log.payloadBlocks += 1
      }
      if g.pointee.index.insertExtent(entry.extent) {
        allocator.reserved += allocator.slotsPerExtent
        g.pointee.reservedSlots += allocator.slotsPerExtent
      }
    case .deallocated, .zeroed:
      try indexZeros(entry)
    case .lost:
      for i in 0..<entry.count {
        let cell = LogCell(kind: .lost, position: log.cursor, crc: 0)
        _ = g.pointee.index.insert(entry.extent.block(entry.first + i), cell)
      }
      _ = g.pointee.index.insertExtent(ExtentIndex(entry.extent.rawValue | Log.markFlag))
    case .placed: try indexPlaced(entry, at)
    }
  }

  private mutating func indexZeros(_ entry: EntryView) throws(OpenError) {
    let g = log.current
    let start = entry.rangeStart.rawValue
    let blocks = start..<start + entry.rangeCount
    guard !blocks.isEmpty, blocks.upperBound <= (size + 4095) >> 12 else {
      throw OpenError(.damagedLog, "an entry names blocks \(blocks) beyond the volume's end")
    }
    let keeps = entry.kind == .zeroed
    guard log.indexRange(blocks, keeps: keeps) else {
      throw OpenError(.memory, "the log holds more ranges than its index takes")
    }
    let extents = (start >> 4)...((blocks.upperBound - 1) >> 4)
    if entry.rangeCount <= UInt64(Size.blocksPerExtent) {
      for e in extents {
        let isNew = g.pointee.index.insertExtent(ExtentIndex(keeps ? e : e | Log.markFlag))
        guard keeps, isNew else { continue }
        allocator.reserved += allocator.slotsPerExtent
        g.pointee.reservedSlots += allocator.slotsPerExtent
      }
    } else if keeps {
      let count = UInt64(extents.count)
      let cost = count + count / 320 + 2
      allocator.reserved += cost
      g.pointee.reservedSlots += cost
    }
  }

  // MARK: Before serving

  /// Appends what lies above the watermark again, flushes, and writes both superblocks.
  private mutating func makeDurable(_ replay: inout Replay, _ io: SyncIO) throws(OpenError) {
    let isInPlace = replay.mustStayInPlace
    for segment in isInPlace ? replay.chosen : replay.durable { log.segments.adopt(segment) }
    log.segments.nextSerial = replay.nextSerial
    if !planted(.oldSegmentGoesOn) {
      log.segments.cut(at: isInPlace ? replay.end : replay.watermark)
    }
    for i in replay.freeSegments { log.segments.addFree(i) }
    let end = planted(.readableTakenForDurable) ? replay.watermark : replay.end
    do {
      if end > replay.watermark {
        if isInPlace { try rewrite(&replay, io) } else { try appendAgain(&replay, io) }
      }
      try rewritePlaced(from: replay.watermark, io)
      try io.flush(DeviceIndex(0))
      log.begin(at: replay.end, previousCRC: log.previousCRC)
      superblock.serial += 1
      if !planted(.incarnationNotWritten) { superblock.incarnation = log.incarnation }
      superblock.bootID = options.bootID
      superblock.ringID = ringID
      superblock.isClean = false
      superblock.watermark = replay.end
      superblock.nextSegmentSerial = log.segments.nextSerial
      if let control = log.ring.control {
        RingControl.begin(
          control, pool: superblock.pool, ring: ringID, incarnation: log.incarnation,
          size: log.ring.size, watermark: replay.end)
      }
      try PoolFormat.writeSuperblocks(superblock, io)
    } catch {
      throw OpenError(error)
    }
    if !isInPlace { for i in replay.sources { log.segments.addFree(i) } }
  }

  /// No segment is free to copy to: the same bytes go to the same places, and are flushed.
  private mutating func rewrite(_ replay: inout Replay, _ io: SyncIO) throws(SyncError) {
    let buffer = AlignedBuffer(RecordHeader.maxLength)
    var at = replay.watermark
    while at < replay.end, let record = replay.inMemory(at) {
      let length = RecordHeader.length(record)
      buffer.base.copyMemory(from: record, byteCount: length)
      guard let offset = log.segments.deviceOffset(at) else { return }
      try io.write(DeviceIndex(0), offset, from: buffer.base, length)
      at = at + length
    }
  }

  /// Into fresh segments: first the records, flushed, then the headers that make them count. The
  /// watermark found may be older than what was durable, so until the copy is safe the old
  /// segments must go on to hold these positions. A header claims a whole segment, though its
  /// successor may begin earlier: the last goes first, each flushed before the one in front of it.
  private mutating func appendAgain(_ replay: inout Replay, _ io: SyncIO) throws(SyncError) {
    let buffer = AlignedBuffer(RecordHeader.maxLength)
    let first = log.segments.count
    var at = replay.watermark
    while at < replay.end {
      guard let record = replay.inMemory(at) else { return }
      let length = RecordHeader.length(record)
      buffer.base.copyMemory(from: record, byteCount: length)
      if let end = log.segments.end, end < at + length { log.segments.cut(at: at) }
      if log.segments.end == nil || log.segments.end! <= at {
        guard log.segments.freeCount > 0 else {
          throw SyncError(device: DeviceIndex(0), offset: 0, kind: .write, errno: 28)
        }
        log.segments.open(at: at)
      }
      guard let offset = log.segments.deviceOffset(at) else { return }
      try io.write(DeviceIndex(0), offset, from: buffer.base, length)
      at = at + length
    }
    try io.flush(DeviceIndex(0))
    for i in (first..<log.segments.count).reversed() {
      let segment = log.segments[i]
      SegmentHeader(
        index: UInt32(segment.index), serial: segment.serial, start: segment.start,
        incarnation: log.incarnation
      ).encode(into: buffer.base, seed: log.seed)
      try io.write(
        DeviceIndex(0), log.geometry.segmentOffset(segment.index), from: buffer.base,
        Layout.metadataBlock)
      try io.flush(DeviceIndex(0))
      log.segments[i].headerWritten = true
    }
    // The next record goes to a fresh segment: nothing here is written twice.
    log.segments.cut(at: replay.end)
  }
}
