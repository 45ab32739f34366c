import Base
import DeviceIO
import DiskFormat

/// An append in flight: whole records, in one segment.
struct Append {
  var isActive = false
  var start = LogPosition(0)
  var end = LogPosition(0)
  /// Operations that have not ended: the data, and a new segment's header.
  var parts: UInt8 = 0
  var isDurable = false
}

/// A device's flush: one at a time, whoever asks. A failure is a fact about the device and is
/// told to everyone with unflushed writes on it.
struct DeviceFlush {
  var isInFlight = false
  var logAsks = false
  var batchAsks = false
  var forLog = false
  var forBatch = false
}

/// One round of flushes for the log: the log's device, and every device with placed data. The
/// watermark moves when all have succeeded, over what had completed when the first was submitted.
struct FlushRound {
  var covers = LogPosition(0)
  /// Devices whose flush has not ended; none: no round is under way.
  var waiting: UInt64 = 0
  /// Devices that are in the round for their placed data.
  var placed: UInt64 = 0
  var isActive: Bool { waiting != 0 }
}

/// How closed records reach the device and become durable.
///
///     closed ─issueAppends─► in flight ─finishAppend─► completed ─flush─► durable
///                                │ failed                             │ failed
///                                └──────► restart: everything above the watermark again,
///                                         in a fresh segment ◄────────┘
extension Volume {
  /// The most bytes that may be unflushed before the server flushes by itself.
  private var autoFlushBytes: Int { min(32 << 20, log.ring.size / 4) }

  mutating func pumpLog() {
    if log.mustRestart {
      restartAppends()
      if log.mustRestart {
        // The batch goes on meanwhile: only it frees segments.
        for d in 0..<allocator.deviceCount { pumpFlush(d) }
        return
      }
    }
    let age = log.oldestUnflushed.map { now.since($0) } ?? 0
    let isDue =
      age >= 1_000_000_000 || log.unflushedBytes >= autoFlushBytes
      || placed.unflushedBytes >= 256 << 20
    if isDue, log.syncTarget <= log.watermark { log.requestSync() }
    if log.flushGoal <= log.watermark { log.flushGoal = log.syncTarget }
    let noRing = log.ring.control == nil
    let eager = log.flushHabit >= 4 && (1...4).contains(log.writesSinceFlush)
    let isAsked = log.syncTarget > log.closedEnd || noRing || eager
    if log.isOpen, log.entryCount > 0, isAsked, log.appendsInFlight < 4 { log.closeRecord() }
    stageWatermarkRecord()
    issueAppends()
    let isSyncDue = log.syncTarget > log.watermark && log.completedEnd > log.watermark
    if isSyncDue, log.appendsInFlight == 0 || log.completedEnd >= log.flushGoal {
      beginRound()
    }
    for d in 0..<allocator.deviceCount { pumpFlush(d) }
    answerFlushes()
  }

  /// Soon after a flush a record of a header alone tells a later recovery how far it reached.
  private mutating func stageWatermarkRecord() {
    guard let due = log.watermarkRecordAt, now >= due, !isStopping else { return }
    // Not between the writes of someone who flushes each: it would cost them the short way.
    guard now.since(lastWrite) >= 50_000_000 else {
      log.watermarkRecordAt = now + Milliseconds(50)
      return
    }
    log.watermarkRecordAt = nil
    guard !log.isOpen, log.watermark == log.closedEnd, log.prepareEmptyRecord() else { return }
    log.closeRecord()
  }

  mutating func issueAppends() {
    while log.issuedEnd < log.closedEnd, log.appendsInFlight < 4, orders.room > 8 {
      guard let s = log.segments.find(log.issuedEnd) else {
        invariant(false, "S1: a closed record has a segment")
        return
      }
      let segment = log.segments[s]
      var end = log.issuedEnd
      while end < log.closedEnd, end < segment.end {
        let length = RecordHeader.length(log.ring.pointer(at: end))
        let isFirst = end == log.issuedEnd
        let ringStart = log.ring.bytesToEnd(from: log.issuedEnd)
        let total = end + length - log.issuedEnd
        if !isFirst && (total > RecordHeader.maxLength || total > ringStart) { break }
        end = end + length
      }
      issue(from: log.issuedEnd, to: end, entry: s, segment)
    }
    issueFooter()
  }

  /// Nobody waits for a footer, and nothing depends on it.
  private mutating func issueFooter() {
    guard let index = log.footer.ready, orders.room > 8 else { return }
    let memory = log.footer.readyBuffer
    log.footer.taken()
    let end = log.geometry.segmentOffset(index) + UInt64(log.geometry.segmentSize)
    order(
      DeviceOperation(
        .write, device: DeviceIndex(0), offset: end - UInt64(log.geometry.footerArea),
        length: log.geometry.footerArea, memory: memory, token: Token.make(.footer, 0)))
  }

  mutating func finishFooter(ok: Bool) {
    log.footer.isInFlight = false
    if !ok { deviceCounters[0].writeErrors += 1 }
  }

  private mutating func issue(
    from start: LogPosition, to end: LogPosition, entry: Int, _ segment: Segment
  ) {
    var a = 0
    while log.appends[a].isActive { a += 1 }
    // Alone and with nothing waiting for a flush, one durable write is one trip to the device.
    let isLast = end == log.closedEnd && !log.isOpen
    let asked =
      log.syncTarget > start || (log.flushHabit >= 4 && (0...4).contains(log.writesSinceFlush))
    let isLate = planted(.headerWrittenLate) && start == segment.start
    let durable =
      isLast && asked && start == log.watermark && log.appendsInFlight == 0
      && !flushes[0].isInFlight && !log.round.isActive && placed.unflushedDevices == 0
      && placed.repair.isIdle
    log.appends[a] = Append(
      isActive: true, start: start, end: end, parts: segment.headerWritten || isLate ? 1 : 2,
      isDurable: durable)
    log.appendsInFlight += 1
    log.issuedEnd = end
    counters.appends += 1
    counters.appendedBytes += UInt64(end - start)
    let kind: OperationKind = durable ? .writeThrough : .write
    if !segment.headerWritten, !isLate {
      log.segments[entry].headerWritten = true
      let page = log.headerPages + a * Layout.metadataBlock
      SegmentHeader(
        index: UInt32(segment.index), serial: segment.serial, start: segment.start,
        incarnation: log.incarnation
      ).encode(into: page, seed: log.seed)
      order(
        DeviceOperation(
          kind, device: DeviceIndex(0), offset: log.geometry.segmentOffset(segment.index),
          length: Layout.metadataBlock, memory: page, token: Token.make(.segmentHeader, a)))
    }
    let memory = log.ring.pointer(at: start)
    let isTwice = planted(.blockWrittenTwice) && start > segment.start && memory > log.ring.data
    let before = isTwice ? Layout.metadataBlock : 0
    order(
      DeviceOperation(
        kind, device: DeviceIndex(0),
        offset: log.segments.deviceOffset(start, in: segment) - UInt64(before),
        length: end - start + before, memory: memory - before,
        token: Token.make(.append, a)))
  }

  mutating func finishAppend(_ a: Int, ok: Bool) {
    invariant(log.appends[a].isActive, "L9: an append ends once")
    log.appends[a].parts -= 1
    if !ok && !planted(.appendErrorIgnored) {
      deviceCounters[0].writeErrors += 1
      note(.appendFailed)
      log.mustRestart = true
      if log.appends[a].isDurable { devicePoisoned(0) }
    }
    guard log.appends[a].parts == 0 else { return }
    if !log.mustRestart { advanceCompleted() }
    pumpLog()
  }

  /// Moves the end of what has completed without a gap.
  private mutating func advanceCompleted() {
    var moved = true
    while moved {
      moved = false
      for i in 0..<4 where log.appends[i].isActive && log.appends[i].parts == 0 {
        guard log.appends[i].start == log.completedEnd else { continue }
        log.completedEnd = log.appends[i].end
        log.appends[i].isActive = false
        log.appendsInFlight -= 1
        moved = true
        if log.appends[i].isDurable, log.appends[i].start == log.watermark {
          setWatermark(log.completedEnd)
        }
      }
    }
  }

  // MARK: Flushes

  /// Begins a round of flushes, unless one is under way or placed data has to be written again.
  private mutating func beginRound() {
    guard !log.round.isActive, log.roundFlushes == 0, placed.repair.isIdle else { return }
    let devices = planted(.placedDeviceNotFlushed) ? 0 : placed.unflushedDevices
    log.round = FlushRound(
      covers: log.completedEnd, waiting: devices | 1, placed: placed.unflushedDevices)
    placed.unflushedDevices = 0
    placed.unflushedBytes = 0
    for d in 0..<allocator.deviceCount where log.round.waiting & (1 << UInt64(d)) != 0 {
      flushes[d].logAsks = true
    }
  }

  /// Gives the round up: its devices have not been flushed.
  mutating func abandonRound() {
    guard log.round.isActive else { return }
    placed.unflushedDevices |= log.round.placed
    log.round = FlushRound()
    for d in 0..<allocator.deviceCount { flushes[d].logAsks = false }
  }

  mutating func pumpFlush(_ d: Int) {
    guard !flushes[d].isInFlight, flushes[d].logAsks || flushes[d].batchAsks else { return }
    flushes[d].isInFlight = true
    flushes[d].forLog = flushes[d].logAsks
    flushes[d].forBatch = flushes[d].batchAsks
    flushes[d].logAsks = false
    flushes[d].batchAsks = false
    if flushes[d].forLog { log.roundFlushes += 1 }
    counters.deviceFlushes += 1
    order(DeviceOperation(.flush, device: DeviceIndex(d), token: Token.make(.deviceFlush, d)))
  }

  mutating func finishDeviceFlush(_ d: Int, ok: Bool) {
    invariant(flushes[d].isInFlight, "L9: a flush ends once")
    flushes[d].isInFlight = false
    let flush = flushes[d]
    if flush.forLog { log.roundFlushes -= 1 }
    if ok {
      if flush.forLog { roundFlushed(d) }
      if flush.forBatch { batchFlushFinished(d) }
    } else if planted(.flushErrorSeenOnce) {
      if flush.forLog {
        abandonRound()
        failFlushes()
      } else {
        batchPoisoned(d)
      }
    } else {
      note(.flushFailed(DeviceIndex(d)))
      deviceCounters[d].writeErrors += 1
      devicePoisoned(d)
    }
    pumpLog()
  }

  private mutating func roundFlushed(_ d: Int) {
    guard log.round.waiting & (1 << UInt64(d)) != 0 else { return }
    log.round.waiting &= ~(1 << UInt64(d))
    guard !log.round.isActive else { return }
    log.round.placed = 0
    if log.mustRestart { return }
    setWatermark(planted(.watermarkPassesFlush) ? log.completedEnd : log.round.covers)
  }

  /// A device failed a flush: nothing written there since the last good one is trusted.
  mutating func devicePoisoned(_ d: Int) {
    placedPoisoned(d)
    if d == 0 { logPoisoned() }
    batchPoisoned(d)
  }

  /// Device 0 failed a flush: what was appended since the last good one is appended again, and
  /// nobody who waits is told that it is durable.
  mutating func logPoisoned() {
    guard log.issuedEnd > log.watermark else { return }
    log.mustRestart = true
    log.restartAt = now + Milliseconds(20)
    failFlushes()
  }

  private mutating func setWatermark(_ w: LogPosition) {
    guard w > log.watermark else { return }
    invariant(w <= log.completedEnd, "L4: only what has completed becomes durable")
    log.watermark = w
    log.failures = 0
    if let control = log.ring.control { RingControl.setWatermark(control, w) }
    if w >= log.lastEntryEnd, !(log.isOpen && log.entryCount > 0) {
      log.oldestUnflushed = nil
      if w >= log.lastEntryEnd, log.watermarkRecordAt == nil {
        log.watermarkRecordAt = now + Milliseconds(5)
      }
    } else {
      log.oldestUnflushed = now
    }
    answerFlushes()
    pumpQueue()
  }

  /// After a failed append or flush: everything above the watermark is appended again, from the
  /// ring, into a fresh segment.
  private mutating func restartAppends() {
    guard !flushes[0].isInFlight, now >= log.restartAt else { return }
    for i in 0..<4 where log.appends[i].isActive && log.appends[i].parts > 0 { return }
    for i in 0..<4 { log.appends[i].isActive = false }
    log.appendsInFlight = 0
    abandonRound()
    log.footer.forget()
    guard log.segments.replace(from: log.watermark) else {
      log.restartAt = now + Milliseconds(1000)
      return
    }
    log.issuedEnd = log.watermark
    log.completedEnd = log.watermark
    log.mustRestart = false
    log.failures += 1
    if log.failures > 1 {
      log.restartAt = now + Milliseconds(UInt64(min(1000, 10 << min(log.failures, 7))))
    }
    log.requestSync()
  }
}

extension Log {
  /// Opens a record that will hold no entry; false when there is no room for one just now.
  mutating func prepareEmptyRecord() -> Bool {
    guard closedEnd == watermark else { return false }
    if let end = segments.end, end == closedEnd { return false }
    return openRecord(reserve: 3) == nil
  }
}
