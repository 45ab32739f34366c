import Base
import DeviceIO
import DiskFormat

/// After a device failed a flush: every extent placed there whose entry is not durable is read
/// back and written again, the same bytes to the same slot; then flushes may go on. What cannot be
/// read, or is not what it was, tells its checksum.
///
///     idle ─begin─► reading ─► writing ─► (the next) … ─► idle: the device is to be flushed
///                      ▲          │ failed
///                      └──────────┘ after a while, from the start
struct PlacedRepair {
  private(set) var devices: UInt64 = 0
  fileprivate let buffer: UnsafeMutableRawPointer
  fileprivate var isBusy = false
  fileprivate var slot = SlotAddress.none
  /// The next to look at: a generation's place in the log's four, an extent in its list.
  fileprivate var generation = 0
  fileprivate var number = 0
  fileprivate(set) var retryAt: Instant?

  init(buffer: UnsafeMutableRawPointer) { self.buffer = buffer }

  var isIdle: Bool { devices == 0 }

  mutating func begin(_ d: Int, now: Instant) {
    devices |= 1 << UInt64(d)
    startOver(at: now)
  }

  fileprivate mutating func startOver(at time: Instant) {
    generation = 0
    number = 0
    retryAt = time
  }

  fileprivate mutating func end() -> UInt64 {
    defer { devices = 0 }
    retryAt = nil
    return devices
  }
}

extension Volume {
  mutating func pumpRepair() {
    guard !placed.repair.isIdle, !placed.repair.isBusy, orders.room > 8 else { return }
    if let at = placed.repair.retryAt, now < at { return }
    placed.repair.retryAt = nil
    while placed.repair.generation < Log.maxGenerations {
      let g = log.generations + placed.repair.generation
      guard g.pointee.state != .free, placed.repair.number < g.pointee.placedCount else {
        placed.repair.generation += 1
        placed.repair.number = 0
        continue
      }
      let extent = g.pointee.placed[placed.repair.number]
      placed.repair.number += 1
      let bit = UInt64(1) << UInt64(extent.slot.device.rawValue)
      guard extent.position >= log.watermark, placed.repair.devices & bit != 0 else { continue }
      placed.repair.slot = extent.slot
      orderRepair(.read)
      return
    }
    placed.unflushedDevices |= placed.repair.end()
    log.requestSync()
  }

  private mutating func orderRepair(_ kind: OperationKind) {
    placed.repair.isBusy = true
    let slot = placed.repair.slot
    order(
      DeviceOperation(
        kind, device: slot.device, offset: slot.byteOffset, length: Size.extent,
        memory: placed.repair.buffer,
        token: Token.make(.repair, kind == .read ? 0 : 1, Int(slot.device.rawValue))))
  }

  mutating func finishRepair(isWrite: Bool, _ device: Int, ok: Bool) {
    placed.repair.isBusy = false
    if !isWrite {
      if ok {
        orderRepair(.write)
        return
      }
      deviceCounters[device].readErrors += 1
    } else if !ok {
      deviceCounters[device].writeErrors += 1
      placed.repair.startOver(at: now + Milliseconds(100))
    }
    pumpRepair()
  }
}
