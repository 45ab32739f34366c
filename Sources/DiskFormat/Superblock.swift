package import Base

/// The root of the pool: one checkpoint, in two equal copies on device 0.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check |
/// | 8 | 4 + 4 | format version, parts (1) |
/// | 16 | 16 | pool |
/// | 32 | 8 + 8 | checkpoint serial, incarnation |
/// | 48 | 16 | boot id of the last opener |
/// | 64 | 8 | id of the staging ring in use, 0 for none |
/// | 72 | 1 + 1 + 1 | clean, device count, tier count |
/// | 76 | 4 | epoch |
/// | 80 | 8 + 4 | boundary: position from which the log is replayed; CRC of the header before it |
/// | 96 | 8 + 8 | durable watermark; serial of the next segment |
/// | 112 | 8 + 4 + 4 + 4 | log: offset on device 0, segment size, segment count, log block |
/// | 136 | 8 | volume size |
/// | 144 | 64 | volume name |
/// | 208 | 8 × 16 | tier names |
/// | 336 | 41, 41 | roots: extent table, versions |
/// | 424 | 8 | slots that chunks of pages take, of the table and of the bitmaps |
/// | 512 | 32 × 96 | devices: identity 16, size 8, tier 1, state 1, (6), bitmap root 41 |
package struct Superblock: Equatable, Sendable {
  package var pool: Identity
  /// Grows by one with every checkpoint and every change of this block.
  package var serial: UInt64
  /// Grows by one with every opening; never decreases.
  package var incarnation: UInt64
  package var bootID: Identity
  package var ringID: UInt64
  /// The volume was shut down in order: everything is durable, no ring is needed.
  package var isClean: Bool
  package var epoch: Epoch
  package var boundary: LogPosition
  package var boundaryCRC: UInt32
  package var watermark: LogPosition
  package var nextSegmentSerial: UInt64
  package var log: LogGeometry
  package var volumeSize: UInt64
  package var volumeName: String
  package var tierNames: [String]
  package var extentRoot: ChunkEntry
  package var versionRoot: ChunkEntry
  /// Slots in use by chunks of pages; all other mapped slots hold data.
  package var chunkCount: UInt64
  package var devices: [DeviceEntry]

  /// One device of the pool.
  package struct DeviceEntry: Equatable, Sendable {
    package var identity: Identity
    package var size: UInt64
    package var tier: TierIndex
    package var state: DeviceState
    package var bitmapRoot: ChunkEntry

    package init(
      identity: Identity, size: UInt64, tier: TierIndex, state: DeviceState, bitmapRoot: ChunkEntry
    ) {
      self.identity = identity
      self.size = size
      self.tier = tier
      self.state = state
      self.bitmapRoot = bitmapRoot
    }

    /// Whole slots on the device, those of the system area included.
    package var slotCount: UInt64 { size / UInt64(Size.extent) }
  }

  static let magic: UInt32 = 0x4253_4354
  static let deviceTable = 512
  static let deviceStride = 96

  /// The largest volume, in bytes: 4 PiB.
  package static let largestVolume: UInt64 = 1 << 52

  /// Whether a volume can have so many bytes: whole blocks of 4 KiB, up to 4 PiB.
  package static func isVolumeSize(_ bytes: UInt64) -> Bool {
    bytes > 0 && bytes % UInt64(Size.block) == 0 && bytes <= largestVolume
  }

  package init(
    pool: Identity, volumeName: String, volumeSize: UInt64, tierNames: [String],
    log: LogGeometry, devices: [DeviceEntry]
  ) {
    self.pool = pool
    serial = 1
    incarnation = 1
    bootID = .zero
    ringID = 0
    isClean = true
    epoch = Epoch(1)
    boundary = LogPosition(0)
    boundaryCRC = 0
    watermark = LogPosition(0)
    nextSegmentSerial = 1
    self.log = log
    self.volumeSize = volumeSize
    self.volumeName = volumeName
    self.tierNames = tierNames
    extentRoot = .absent
    versionRoot = .absent
    chunkCount = 0
    self.devices = devices
  }

  /// Writes the superblock into 4 KiB.
  package func encode(into bytes: UnsafeMutableRawPointer) {
    invariant(devices.count <= Layout.maxDevices, "F4: a superblock names at most 32 devices")
    invariant(tierNames.count <= Layout.maxTiers, "F4: a superblock names at most 8 tiers")
    bytes.zero(Layout.metadataBlock)
    bytes.put32(8, Layout.formatVersion)
    bytes.put32(12, 1)
    bytes.putIdentity(16, pool)
    bytes.put64(32, serial)
    bytes.put64(40, incarnation)
    bytes.putIdentity(48, bootID)
    bytes.put64(64, ringID)
    bytes.put8(72, isClean ? 1 : 0)
    bytes.put8(73, UInt8(devices.count))
    bytes.put8(74, UInt8(tierNames.count))
    bytes.put32(76, epoch.rawValue)
    bytes.put64(80, boundary.rawValue)
    bytes.put32(88, boundaryCRC)
    bytes.put64(96, watermark.rawValue)
    bytes.put64(104, nextSegmentSerial)
    log.encode(into: bytes + 112)
    bytes.put64(136, volumeSize)
    Text.put(volumeName, at: bytes + 144, room: Layout.maxVolumeName + 1)
    for (i, name) in tierNames.enumerated() {
      Text.put(name, at: bytes + 208 + 16 * i, room: Layout.maxTierName + 1)
    }
    extentRoot.encode(into: bytes + 336)
    versionRoot.encode(into: bytes + 377)
    bytes.put64(424, chunkCount)
    for (i, device) in devices.enumerated() {
      let p = bytes + Self.deviceTable + Self.deviceStride * i
      p.putIdentity(0, device.identity)
      p.put64(16, device.size)
      p.put8(24, device.tier.rawValue)
      p.put8(25, device.state.rawValue)
      device.bitmapRoot.encode(into: p + 32)
    }
    Frame.seal(bytes, magic: Self.magic, seed: PoolSeed(pool))
  }

  /// Reads a superblock of `pool` from 4 KiB.
  package static func decode(
    _ bytes: UnsafeRawPointer, pool: Identity
  ) throws(FormatError) -> Superblock {
    try Frame.verify(bytes, magic: magic, seed: PoolSeed(pool))
    guard bytes.u32(8) == Layout.formatVersion else {
      throw .mismatch(
        what: "superblock of format version \(bytes.u32(8)), expected \(Layout.formatVersion)")
    }
    guard bytes.u32(12) == 1 else { throw .mismatch(what: "volume of \(bytes.u32(12)) parts") }
    let deviceCount = Int(bytes.u8(73))
    let tierCount = Int(bytes.u8(74))
    guard bytes.identity(16) == pool, (1...Layout.maxDevices).contains(deviceCount),
      (1...Layout.maxTiers).contains(tierCount)
    else { throw .mismatch(what: "superblock with \(deviceCount) devices, \(tierCount) tiers") }
    guard isVolumeSize(bytes.u64(136)) else {
      throw .mismatch(what: "superblock with a volume of \(bytes.u64(136)) bytes")
    }
    var devices: [DeviceEntry] = []
    for i in 0..<deviceCount {
      let p = bytes + deviceTable + deviceStride * i
      guard Int(p.u8(24)) < tierCount, let state = DeviceState(rawValue: p.u8(25)) else {
        throw .mismatch(what: "device \(i) in tier \(p.u8(24)), state \(p.u8(25))")
      }
      devices.append(
        DeviceEntry(
          identity: p.identity(0), size: p.u64(16), tier: TierIndex(p.u8(24)), state: state,
          bitmapRoot: ChunkEntry(p + 32)))
    }
    var result = Superblock(
      pool: pool, volumeName: Text.get(bytes + 144, room: Layout.maxVolumeName + 1),
      volumeSize: bytes.u64(136),
      tierNames: (0..<tierCount).map {
        Text.get(bytes + 208 + 16 * $0, room: Layout.maxTierName + 1)
      },
      log: try LogGeometry.decode(bytes + 112, device0Size: devices[0].size), devices: devices)
    result.serial = bytes.u64(32)
    result.incarnation = bytes.u64(40)
    result.bootID = bytes.identity(48)
    result.ringID = bytes.u64(64)
    result.isClean = bytes.u8(72) != 0
    result.epoch = Epoch(bytes.u32(76))
    result.boundary = LogPosition(bytes.u64(80))
    result.boundaryCRC = bytes.u32(88)
    result.watermark = LogPosition(bytes.u64(96))
    result.nextSegmentSerial = bytes.u64(104)
    result.extentRoot = ChunkEntry(bytes + 336)
    result.versionRoot = ChunkEntry(bytes + 377)
    result.chunkCount = bytes.u64(424)
    return result
  }
}

/// What a device of the pool is used for.
package enum DeviceState: UInt8, Sendable, CaseIterable {
  case inUse = 0
  case readOnly, evacuating, empty, failed, missing
}

/// Where the log lies on device 0, and its units.
package struct LogGeometry: Equatable, Sendable {
  /// Byte offset of segment 0 on device 0.
  package var offset: UInt64
  /// Bytes of a segment, header and footer area included; 8 MiB but for tests.
  package var segmentSize: Int
  package var segmentCount: Int
  /// Where records begin: the larger of 4 KiB and the device's physical block.
  package var logBlock: Int

  package init(offset: UInt64, segmentSize: Int, segmentCount: Int, logBlock: Int) {
    self.offset = offset
    self.segmentSize = segmentSize
    self.segmentCount = segmentCount
    self.logBlock = logBlock
  }

  /// Bytes at a segment's end that are kept for its footer.
  package var footerArea: Int { max(logBlock, segmentSize / 128) & ~(logBlock - 1) }
  /// Positions that one segment holds: all but its header block and its footer area.
  package var segmentCapacity: Int { segmentSize - logBlock - footerArea }
  /// Positions that the whole log holds.
  package var capacity: Int { segmentCapacity * segmentCount }
  /// The byte offset of a segment on device 0.
  package func segmentOffset(_ index: Int) -> UInt64 {
    offset + UInt64(index) * UInt64(segmentSize)
  }
  /// Bytes of the log area on device 0.
  package var areaSize: UInt64 { UInt64(segmentSize) * UInt64(segmentCount) }

  func encode(into p: UnsafeMutableRawPointer) {
    p.put64(0, offset)
    p.put32(8, UInt32(segmentSize))
    p.put32(12, UInt32(segmentCount))
    p.put32(16, UInt32(logBlock))
  }

  static func decode(
    _ p: UnsafeRawPointer, device0Size: UInt64
  ) throws(FormatError) -> LogGeometry {
    let g = LogGeometry(
      offset: p.u64(0), segmentSize: Int(p.u32(8)), segmentCount: Int(p.u32(12)),
      logBlock: Int(p.u32(16)))
    guard g.logBlock >= 4096, g.logBlock <= 65536, g.logBlock & (g.logBlock - 1) == 0,
      g.segmentSize >= 16 * g.logBlock, g.segmentSize <= 64 << 20,
      g.segmentSize % g.logBlock == 0, g.segmentCount >= 8, g.segmentCount <= 1 << 20,
      g.offset >= Layout.systemArea, g.offset <= device0Size,
      g.areaSize <= device0Size - g.offset
    else { throw .mismatch(what: "log of \(g.segmentCount) segments at offset \(g.offset)") }
    return g
  }
}
