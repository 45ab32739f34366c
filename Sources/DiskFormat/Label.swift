package import Base

/// Who a device is: the first thing on each device of a pool, in two equal copies.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check (seeded with the pool's identity at 16) |
/// | 8 | 4 | format version |
/// | 16 | 16 | pool |
/// | 32 | 16 | device |
/// | 48 | 1 + 1 + 1 | index in the pool, tier, devices in the pool |
/// | 56 | 8 | size in bytes when it was formatted |
package struct Label: Equatable, Sendable {
  package var pool: Identity
  package var device: Identity
  package var index: DeviceIndex
  package var tier: TierIndex
  package var deviceCount: UInt8
  package var size: UInt64

  static let magic: UInt32 = 0x4c42_4354

  package init(
    pool: Identity, device: Identity, index: DeviceIndex, tier: TierIndex, deviceCount: UInt8,
    size: UInt64
  ) {
    self.pool = pool
    self.device = device
    self.index = index
    self.tier = tier
    self.deviceCount = deviceCount
    self.size = size
  }

  /// Writes the label into 4 KiB.
  package func encode(into bytes: UnsafeMutableRawPointer) {
    bytes.zero(Layout.metadataBlock)
    bytes.put32(8, Layout.formatVersion)
    bytes.putIdentity(16, pool)
    bytes.putIdentity(32, device)
    bytes.put8(48, index.rawValue)
    bytes.put8(49, tier.rawValue)
    bytes.put8(50, deviceCount)
    bytes.put64(56, size)
    Frame.seal(bytes, magic: Self.magic, seed: PoolSeed(pool))
  }

  /// Reads a label from 4 KiB of any pool.
  package static func decode(_ bytes: UnsafeRawPointer) throws(FormatError) -> Label {
    let pool = bytes.identity(16)
    try Frame.verify(bytes, magic: magic, seed: PoolSeed(pool))
    guard bytes.u32(8) == Layout.formatVersion else {
      throw .mismatch(
        what: "label of format version \(bytes.u32(8)), expected \(Layout.formatVersion)")
    }
    let label = Label(
      pool: pool, device: bytes.identity(32), index: DeviceIndex(bytes.u8(48)),
      tier: TierIndex(bytes.u8(49)), deviceCount: bytes.u8(50), size: bytes.u64(56))
    guard label.index.index < Layout.maxDevices, label.tier.index < Layout.maxTiers else {
      throw .mismatch(
        what: "label names device \(label.index.rawValue) of tier \(label.tier.rawValue)")
    }
    return label
  }
}
