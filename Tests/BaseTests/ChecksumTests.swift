import Base
import Testing

@Suite struct ChecksumTests {
  /// The definition, bit by bit.
  private func reference(_ bytes: [UInt8], seed: UInt32 = 0) -> UInt32 {
    var crc = ~seed
    for byte in bytes {
      crc ^= UInt32(byte)
      for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
    }
    return ~crc
  }

  private func crc(_ bytes: [UInt8], seed: UInt32 = 0) -> UInt32 {
    bytes.withUnsafeBytes { bytes in
      var none: UInt8 = 0
      return withUnsafeBytes(of: &none) {
        Checksum.crc32c(bytes.baseAddress ?? $0.baseAddress!, bytes.count, seed: seed)
      }
    }
  }

  @Test func knownValues() {
    #expect(crc(Array("123456789".utf8)) == 0xe306_9283)
    #expect(crc([]) == 0)
    #expect(crc([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
    #expect(Checksum.zeroBlock == reference([UInt8](repeating: 0, count: 4096)))
  }

  @Test func agreesWithDefinitionAndChains() {
    var random = Random(seed: 7)
    for length in Array(0..<70) + [127, 128, 1000, 4088, 4096] {
      let bytes = (0..<length).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      let seed = UInt32(truncatingIfNeeded: random.next())
      #expect(crc(bytes, seed: seed) == reference(bytes, seed: seed))
      let cut = length == 0 ? 0 : random.next(below: length)
      let first = crc(Array(bytes[..<cut]), seed: seed)
      #expect(crc(Array(bytes[cut...]), seed: first) == crc(bytes, seed: seed))
    }
  }
}
