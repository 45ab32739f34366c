package import Base

/// Bytes ↔ values: everything that lies on a device or in the staging ring. Pure: no system call,
/// no state, and no trap on any input.
///
/// Where things lie on a device of the pool:
///
///     0          label                      64 KiB   superblock A   (device 0)
///     32 KiB     label, second copy         512 KiB  superblock B   (device 0)
///     1 MiB      device 0: the log's segments; then, and on all others: slots of 64 KiB
///
/// Every structure opens with a magic number and a CRC-32C that is seeded with the pool's
/// identity, so that a block of another pool, or of an earlier life, never looks true.
///
/// - F1: a decoder returns a value or an error for any bytes; it never traps.
/// - F2: what `encode` writes, `decode` reads back equal.
/// - F3: a structure carries its own address, and the decoder is told which one to expect.
package enum Layout {
  /// A label, a superblock, a page, a header: 4 KiB each.
  package static let metadataBlock = 4096
  package static let labelOffset: UInt64 = 0
  package static let labelCopyOffset: UInt64 = 32 << 10
  package static let superblockOffsets: (a: UInt64, b: UInt64) = (64 << 10, 512 << 10)
  /// The first bytes of each device that hold no slot.
  package static let systemArea: UInt64 = 1 << 20
  package static let maxDevices = 32
  package static let maxTiers = 8
  /// Blocks of a volume: 4 PiB, what a cell of the log index can name.
  package static let maxBlocks: UInt64 = 1 << 40
  package static let formatVersion: UInt32 = 1
  /// The volume's name and each tier's name, in bytes of UTF-8.
  package static let maxVolumeName = 63
  package static let maxTierName = 15
}

/// Why bytes are not the structure that was expected.
package enum FormatError: Error, Equatable, Sendable {
  /// There is no such structure: another magic number.
  case notFound
  /// The magic number is there, the checksum does not match.
  case badChecksum
  /// Whole, but of another pool, place or version: `what` says which.
  case mismatch(what: String)
}

/// The seed of every check in a pool: the CRC-32C of its identity.
package struct PoolSeed: Equatable, Sendable {
  package let rawValue: UInt32

  package init(_ pool: Identity) {
    var bytes: (UInt64, UInt64) = (pool.high.littleEndian, pool.low.littleEndian)
    rawValue = withUnsafeBytes(of: &bytes) { Checksum.crc32c($0.baseAddress!, 16) }
  }
}

/// The frame that labels, superblocks, segment headers and pages share: magic number at 0,
/// CRC-32C of bytes 8 to 4095 at 4.
package enum Frame {
  /// The check of a 4 KiB structure whose content is complete.
  package static func checksum(_ bytes: UnsafeRawPointer, seed: PoolSeed) -> UInt32 {
    Checksum.crc32c(bytes + 8, Layout.metadataBlock - 8, seed: seed.rawValue)
  }

  /// Writes magic number and check; returns the check.
  @discardableResult
  package static func seal(
    _ bytes: UnsafeMutableRawPointer, magic: UInt32, seed: PoolSeed
  ) -> UInt32 {
    let crc = checksum(bytes, seed: seed)
    bytes.put32(0, magic)
    bytes.put32(4, crc)
    return crc
  }

  /// Checks magic number and check.
  package static func verify(
    _ bytes: UnsafeRawPointer, magic: UInt32, seed: PoolSeed
  ) throws(FormatError) {
    guard bytes.u32(0) == magic else { throw .notFound }
    guard bytes.u32(4) == checksum(bytes, seed: seed) else { throw .badChecksum }
  }
}

/// Fixed-size text fields: UTF-8, zero-padded.
enum Text {
  static func put(_ text: String, at p: UnsafeMutableRawPointer, room: Int) {
    p.zero(room)
    for (i, byte) in text.utf8.prefix(room - 1).enumerated() { p.put8(i, byte) }
  }

  static func get(_ p: UnsafeRawPointer, room: Int) -> String {
    var bytes: [UInt8] = []
    for i in 0..<room {
      let byte = p.u8(i)
      if byte == 0 { break }
      bytes.append(byte)
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
