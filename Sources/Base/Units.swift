/// The units of the house. An index of one kind never stands where another is meant: each is a
/// type of its own around one integer, free at run time.

/// Sizes that the format fixes for ever.
@usableFromInline package enum Size {
  /// 4 KiB: the unit of checksums and of atomicity.
  @inlinable package static var block: Int { 4096 }
  /// 64 KiB: the unit of mapping and of placement; also the size of a slot.
  @inlinable package static var extent: Int { 65536 }
  /// Blocks in an extent.
  @inlinable package static var blocksPerExtent: Int { 16 }
}

/// A 4 KiB block of the volume, counted from its start.
@usableFromInline package struct BlockIndex: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt64
  @inlinable package init(_ rawValue: UInt64) { self.rawValue = rawValue }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  /// The extent this block lies in.
  @inlinable package var extent: ExtentIndex { ExtentIndex(rawValue >> 4) }
  /// Its number in that extent, 0 to 15.
  @inlinable package var inExtent: Int { Int(rawValue & 15) }
}

/// A 64 KiB extent of the volume, counted from its start.
@usableFromInline package struct ExtentIndex: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt64
  @inlinable package init(_ rawValue: UInt64) { self.rawValue = rawValue }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  /// The extent's block number `i`, 0 to 15.
  @inlinable package func block(_ i: Int) -> BlockIndex {
    BlockIndex(rawValue << 4 | UInt64(i))
  }
}

/// A device of the pool, 0 to 254, in the order of the superblock's device table.
@usableFromInline package struct DeviceIndex: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt8
  @inlinable package init(_ rawValue: UInt8) { self.rawValue = rawValue }
  @inlinable package init(_ index: Int) { self.rawValue = UInt8(index) }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  @inlinable package var index: Int { Int(rawValue) }
}

/// A tier of the pool; 0 is the fastest.
@usableFromInline package struct TierIndex: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt8
  @inlinable package init(_ rawValue: UInt8) { self.rawValue = rawValue }
  @inlinable package init(_ index: Int) { self.rawValue = UInt8(index) }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  @inlinable package var index: Int { Int(rawValue) }
}

/// The address of a slot: device (plus one, so that zero means *none*) in the top 16 bits, slot
/// number in the lower 48. This is also its form on disk.
@usableFromInline package struct SlotAddress: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt64
  @inlinable package init(rawValue: UInt64) { self.rawValue = rawValue }
  @inlinable package init(device: DeviceIndex, slot: UInt64) {
    rawValue = (UInt64(device.rawValue) + 1) << 48 | slot
  }
  @inlinable package static var none: SlotAddress { SlotAddress(rawValue: 0) }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  @inlinable package var isNone: Bool { rawValue == 0 }
  /// The device; the address must not be *none*.
  @inlinable package var device: DeviceIndex {
    DeviceIndex(UInt8(truncatingIfNeeded: (rawValue >> 48) &- 1))
  }
  /// The slot's number on its device.
  @inlinable package var slot: UInt64 { rawValue & 0xffff_ffff_ffff }
  /// The byte offset of the slot on its device.
  @inlinable package var byteOffset: UInt64 { slot << 16 }
}

/// A byte offset in the endless log. An entry's position is also its place in the acknowledged
/// order.
@usableFromInline package struct LogPosition: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt64
  @inlinable package init(_ rawValue: UInt64) { self.rawValue = rawValue }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
  @inlinable package static func + (a: Self, n: Int) -> Self { Self(a.rawValue &+ UInt64(n)) }
  /// The distance in bytes from `b` to `a`; `a` must not be the smaller.
  @inlinable package static func - (a: Self, b: Self) -> Int { Int(a.rawValue &- b.rawValue) }
}

/// The epoch between two snapshots; the first is 1.
@usableFromInline package struct Epoch: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt32
  @inlinable package init(_ rawValue: UInt32) { self.rawValue = rawValue }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

/// A moment in nanoseconds of one monotonic clock. The engine is told the time; it never asks.
@usableFromInline package struct Instant: Hashable, Comparable, Sendable, BitwiseCopyable {
  @usableFromInline package var nanoseconds: UInt64
  @inlinable package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }
  @inlinable package static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
  @inlinable package static func + (a: Self, ms: Milliseconds) -> Self {
    Self(nanoseconds: a.nanoseconds &+ ms.rawValue &* 1_000_000)
  }
  /// Nanoseconds since `b`, 0 when `b` is later.
  @inlinable package func since(_ b: Instant) -> UInt64 {
    nanoseconds > b.nanoseconds ? nanoseconds &- b.nanoseconds : 0
  }
}

/// A span of time in milliseconds.
@usableFromInline package struct Milliseconds: Hashable, Sendable, BitwiseCopyable {
  @usableFromInline package var rawValue: UInt64
  @inlinable package init(_ rawValue: UInt64) { self.rawValue = rawValue }
}

/// A 16-byte identity: of a pool, a device, a boot of the machine.
@usableFromInline package struct Identity: Hashable, Sendable, BitwiseCopyable {
  @usableFromInline package var high: UInt64
  @usableFromInline package var low: UInt64
  @inlinable package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
  @inlinable package static var zero: Identity { Identity(high: 0, low: 0) }
}

extension Identity: CustomStringConvertible {
  /// The usual 8-4-4-4-12 form in lower-case hexadecimal.
  @usableFromInline package var description: String {
    func hex(_ v: UInt64, _ digits: Int) -> String {
      let s = String(v, radix: 16)
      return String(repeating: "0", count: max(0, digits - s.count)) + s
    }
    return hex(high >> 32, 8) + "-" + hex(high >> 16 & 0xffff, 4) + "-" + hex(high & 0xffff, 4)
      + "-" + hex(low >> 48, 4) + "-" + hex(low & 0xffff_ffff_ffff, 12)
  }

  /// Reads the form that `description` writes; nil for anything else.
  package init?(_ text: some StringProtocol) {
    let digits = String(text.filter { $0 != "-" })
    guard digits.count == 32, text.count == 36 || text.count == 32,
      let high = UInt64(digits.prefix(16), radix: 16),
      let low = UInt64(digits.suffix(16), radix: 16)
    else { return nil }
    self.init(high: high, low: low)
  }
}
