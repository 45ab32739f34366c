package import Base
package import DeviceIO
package import DiskFormat

/// A device of the pool to be made.
package struct FormatDevice: Sendable {
  package var identity: Identity
  package var tier: TierIndex
  package var size: UInt64

  package init(identity: Identity, tier: TierIndex, size: UInt64) {
    self.identity = identity
    self.tier = tier
    self.size = size
  }
}

/// The pool to be made. Device 0 belongs to tier 0 and holds log and superblocks.
package struct FormatPlan: Sendable {
  package var poolID: Identity
  package var volumeName: String
  package var volumeSize: UInt64
  package var devices: [FormatDevice]
  package var tierNames: [String]
  /// Bytes; rounded down to whole segments.
  package var logSize: UInt64
  /// Bytes; 8 MiB but for tests.
  package var segmentSize: Int

  package init(
    poolID: Identity, volumeName: String, volumeSize: UInt64, devices: [FormatDevice],
    tierNames: [String], logSize: UInt64, segmentSize: Int = 8 << 20
  ) {
    self.poolID = poolID
    self.volumeName = volumeName
    self.volumeSize = volumeSize
    self.devices = devices
    self.tierNames = tierNames
    self.logSize = logSize
    self.segmentSize = segmentSize
  }
}

/// A pool cannot be made; `message` says why and what to do.
package struct PoolFormatError: Error, Sendable {
  package let message: String
}

/// Making a pool: old superblocks wiped and flushed, everything written and flushed, the
/// superblocks last.
package enum PoolFormat {
  /// Makes the pool: all that the devices held is gone. `progress` hears of the bytes written to
  /// the log area. Throws when the plan cannot be carried out; then no pool is there.
  package static func format(
    _ plan: FormatPlan, on devices: any WaitingDevices,
    progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(PoolFormatError) {
    let geometry = try check(plan, devices)
    let io = SyncIO(devices: devices)
    do {
      try wipe(plan, io)
      var superblock = Superblock(
        pool: plan.poolID, volumeName: plan.volumeName, volumeSize: plan.volumeSize,
        tierNames: plan.tierNames, log: geometry,
        devices: plan.devices.map {
          Superblock.DeviceEntry(
            identity: $0.identity, size: $0.size, tier: $0.tier, state: .inUse,
            bitmapRoot: .absent)
        })
      try writeLog(geometry, io, progress)
      for d in plan.devices.indices {
        superblock.devices[d].bitmapRoot = try writeBitmap(d, &superblock, io)
      }
      try writeLabels(plan, io)
      for d in plan.devices.indices { try io.flush(DeviceIndex(d)) }
      try writeSuperblocks(superblock, io)
    } catch {
      throw PoolFormatError(message: error.text)
    }
  }

  private static func check(
    _ plan: FormatPlan, _ devices: any WaitingDevices
  ) throws(PoolFormatError) -> LogGeometry {
    func refuse(_ message: String) -> PoolFormatError { PoolFormatError(message: message) }
    guard (1...Layout.maxDevices).contains(plan.devices.count),
      plan.devices.count == devices.count
    else { throw refuse("a pool has 1 to \(Layout.maxDevices) devices, not \(plan.devices.count)") }
    guard (1...Layout.maxTiers).contains(plan.tierNames.count) else {
      throw refuse("a pool has 1 to \(Layout.maxTiers) tiers, not \(plan.tierNames.count)")
    }
    guard plan.volumeName.utf8.count <= Layout.maxVolumeName,
      plan.tierNames.allSatisfy({ $0.utf8.count <= Layout.maxTierName })
    else {
      throw refuse(
        "the volume's name has at most \(Layout.maxVolumeName) bytes, a tier's name "
          + "\(Layout.maxTierName)")
    }
    guard plan.devices[0].tier.index == 0 else { throw refuse("device 0 must be on tier 0") }
    guard Superblock.isVolumeSize(plan.volumeSize) else {
      throw refuse("the volume's size must be a multiple of 4096 from 4 KiB to 4 PiB")
    }
    for (i, d) in plan.devices.enumerated() {
      let least = Layout.systemArea + 16 * UInt64(Size.extent)
      guard d.size >= least, d.size <= devices.geometry(of: DeviceIndex(i)).size else {
        throw refuse("device \(i) has \(d.size) bytes; at least \(least) are needed")
      }
    }
    let first = devices.geometry(of: DeviceIndex(0))
    let logBlock = min(65536, max(4096, first.physicalBlock))
    let segments = plan.logSize / UInt64(plan.segmentSize)
    let geometry = LogGeometry(
      offset: Layout.systemArea, segmentSize: plan.segmentSize,
      segmentCount: Int(clamping: segments), logBlock: logBlock)
    let least = geometry.offset + geometry.areaSize + 16 * UInt64(Size.extent)
    guard segments >= 8, least <= plan.devices[0].size else {
      throw refuse(
        "a log of \(plan.logSize) bytes does not fit: it needs at least eight segments of "
          + "\(plan.segmentSize) bytes, and the first device must have room beside it")
    }
    return geometry
  }

  /// Nothing of an older pool may look true.
  private static func wipe(_ plan: FormatPlan, _ io: SyncIO) throws(SyncError) {
    let zeros = AlignedBuffer(Int(Layout.systemArea))
    for (i, _) in plan.devices.enumerated() {
      try io.write(DeviceIndex(i), 0, from: zeros.base, zeros.count)
    }
    for i in plan.devices.indices { try io.flush(DeviceIndex(i)) }
  }

  /// Writes the log area: unwritten extents of a file would double every synchronous write.
  private static func writeLog(
    _ g: LogGeometry, _ io: SyncIO, _ progress: (UInt64, UInt64) -> Void
  ) throws(SyncError) {
    let piece = 1 << 20
    let zeros = AlignedBuffer(piece)
    var done: UInt64 = 0
    while done < g.areaSize {
      var operations: [DeviceOperation] = []
      while operations.count < 8, done < g.areaSize {
        let n = min(UInt64(piece), g.areaSize - done)
        operations.append(
          DeviceOperation(
            .write, device: DeviceIndex(0), offset: g.offset + done, length: Int(n),
            memory: zeros.base, token: 0))
        done += n
      }
      try io.perform(operations)
      progress(done, g.areaSize)
    }
  }

  /// The allocation bitmap of a device: all its pages, directories and root, in slots of its own.
  private static func writeBitmap(
    _ d: Int, _ superblock: inout Superblock, _ io: SyncIO
  ) throws(SyncError) -> ChunkEntry {
    let slots = superblock.devices[d].slotCount
    let leaves = Int((slots + UInt64(Page.bitsPerPage) - 1) / UInt64(Page.bitsPerPage))
    var counts = [leaves]
    for _ in 0..<Page.height(.bitmap) {
      counts.append((counts[counts.count - 1] + Page.fanout - 1) / Page.fanout)
    }
    var next = Allocator.systemSlots(superblock, d)
    var firstSlot: [UInt64] = []
    for count in counts {
      firstSlot.append(next)
      next += UInt64((count + 7) / 8)
    }
    let used = Allocator.systemSlots(superblock, d)..<next
    superblock.chunkCount += UInt64(used.count)
    let seed = PoolSeed(superblock.pool)
    let page = AlignedBuffer(Layout.metadataBlock)
    var below: [ChunkEntry] = []
    for (level, count) in counts.enumerated() {
      var entries: [ChunkEntry] = []
      for i in 0..<count {
        let a = PageAddress(.bitmap, level: level, device: UInt8(d), index: UInt64(i))
        Page.begin(page.base, a)
        if level == 0 {
          for s in used where s / UInt64(Page.bitsPerPage) == UInt64(i) {
            let bit = Int(s % UInt64(Page.bitsPerPage))
            let p = page.base + Page.header + bit >> 3
            p.put8(0, UnsafeRawPointer(p).u8(0) | 1 << UInt8(bit & 7))
          }
        } else {
          for (k, e) in below.dropFirst(i * Page.entriesPerPage).prefix(Page.entriesPerPage)
            .enumerated()
          {
            e.encode(into: page.base + Page.header + k * ChunkEntry.bytes)
          }
        }
        let check = Page.seal(page.base, checkpoint: 0, seed: seed)
        if i % 8 == 0 {
          let slot = SlotAddress(device: DeviceIndex(d), slot: firstSlot[level] + UInt64(i / 8))
          entries.append(
            ChunkEntry(address: slot, choices: 0, checks: [8 of UInt32](repeating: 0)))
        }
        entries[i / 8].checks[i % 8] = check
        try io.write(
          DeviceIndex(d), entries[i / 8].twinOffset(page: i % 8, second: false), from: page.base,
          Layout.metadataBlock)
      }
      below = entries
    }
    return below[0]
  }

  private static func writeLabels(_ plan: FormatPlan, _ io: SyncIO) throws(SyncError) {
    let page = AlignedBuffer(Layout.metadataBlock)
    for (i, d) in plan.devices.enumerated() {
      Label(
        pool: plan.poolID, device: d.identity, index: DeviceIndex(i), tier: d.tier,
        deviceCount: UInt8(plan.devices.count), size: d.size
      ).encode(into: page.base)
      for offset in [Layout.labelOffset, Layout.labelCopyOffset] {
        try io.write(DeviceIndex(i), offset, from: page.base, Layout.metadataBlock)
      }
    }
  }

  // MARK: Superblocks

  /// Copy A, flush, copy B, flush.
  static func writeSuperblocks(_ superblock: Superblock, _ io: SyncIO) throws(SyncError) {
    let page = AlignedBuffer(Layout.metadataBlock)
    superblock.encode(into: page.base)
    for offset in [Layout.superblockOffsets.a, Layout.superblockOffsets.b] {
      try io.write(DeviceIndex(0), offset, from: page.base, Layout.metadataBlock)
      try io.flush(DeviceIndex(0))
    }
  }

  /// The newest valid superblock of a pool, its devices' labels checked.
  package static func readSuperblock(
    on devices: any WaitingDevices
  ) throws(OpenError) -> Superblock {
    var events = EventQueue()
    return try readSuperblock(SyncIO(devices: devices), repair: false, events: &events)
  }

  /// The same; with `repair`, both copies are made equal before anything else is written.
  static func readSuperblock(
    _ io: SyncIO, repair: Bool, planted: PlantedBug? = nil, events: inout EventQueue
  ) throws(OpenError) -> Superblock {
    let label = try readLabel(io, DeviceIndex(0))
    let page = AlignedBuffer(Layout.metadataBlock)
    var found: [Superblock?] = []
    for offset in [Layout.superblockOffsets.a, Layout.superblockOffsets.b] {
      do {
        try io.read(DeviceIndex(0), offset, into: page.base, Layout.metadataBlock)
      } catch {
        throw OpenError(error)
      }
      found.append(try? Superblock.decode(page.base, pool: label.pool))
    }
    let takesOlder = planted == .olderSuperblockTaken
    let valid = found.compactMap({ $0 })
    guard
      let newest = valid.max(by: { ($0.serial < $1.serial) != takesOlder })
    else {
      throw OpenError(
        .superblock,
        "both superblock copies of pool \(label.pool) on device 0 are damaged: without them the "
          + "pool cannot be opened. Restore the first bytes of that device from a copy.")
    }
    for i in 0..<2 where found[i] == nil { events.push(.superblockCopyBad(copy: i)) }
    try checkLabels(newest, io)
    if repair, found[0] != newest || found[1] != newest {
      do {
        try writeSuperblocks(newest, io)
      } catch {
        throw OpenError(error)
      }
    }
    return newest
  }

  /// A device's label, from either copy.
  static func readLabel(_ io: SyncIO, _ device: DeviceIndex) throws(OpenError) -> Label {
    let page = AlignedBuffer(Layout.metadataBlock)
    var reason = "no label"
    for offset in [Layout.labelOffset, Layout.labelCopyOffset] {
      do {
        try io.read(device, offset, into: page.base, Layout.metadataBlock)
        return try Label.decode(page.base)
      } catch let error as SyncError {
        reason = error.text
      } catch let error as FormatError {
        if case .mismatch(let what) = error { reason = what }
        if error == .badChecksum { reason = "a damaged label" }
      } catch {
        reason = "an unreadable label"
      }
    }
    throw OpenError(
      .wrongDevice,
      "device \(device.rawValue) is not part of a pool (\(reason)); format it, or name the right "
        + "one")
  }

  private static func checkLabels(_ superblock: Superblock, _ io: SyncIO) throws(OpenError) {
    guard superblock.devices.count == io.devices.count else {
      throw OpenError(
        .wrongDevice,
        "the pool has \(superblock.devices.count) devices, \(io.devices.count) were given")
    }
    for (i, entry) in superblock.devices.enumerated() {
      let device = DeviceIndex(i)
      let label = try readLabel(io, device)
      guard label.pool == superblock.pool else {
        throw OpenError(.wrongDevice, "device \(i) belongs to pool \(label.pool), not to this one")
      }
      guard label.device == entry.identity, label.index == device else {
        throw OpenError(
          .wrongDevice,
          "device \(i) is the pool's device \(label.index.rawValue): the devices are swapped")
      }
      let size = io.devices.geometry(of: device).size
      guard size >= entry.size else {
        throw OpenError(
          .wrongDevice,
          "device \(i) has \(size) bytes, but had \(entry.size) when the pool was made: it was "
            + "truncated")
      }
    }
  }
}
