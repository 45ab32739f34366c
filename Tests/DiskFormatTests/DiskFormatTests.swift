import Base
import DiskFormat
import Testing

@Suite struct DiskFormatTests {
  @Test func poolsHaveTheirOwnSeeds() {
    #expect(PoolSeed(somePool) == PoolSeed(somePool))
    #expect(PoolSeed(somePool) != PoolSeed(otherPool))
    let swapped = Identity(high: somePool.low, low: somePool.high)
    #expect(PoolSeed(somePool) != PoolSeed(swapped))
  }

  @Test func aFrameSaysWhatIsWrong() {
    let block = Block()
    let seed = PoolSeed(somePool)
    Frame.seal(block.bytes, magic: 7, seed: seed)
    #expect(throws: Never.self) { try Frame.verify(block.bytes, magic: 7, seed: seed) }
    #expect(throws: FormatError.notFound) {
      try Frame.verify(block.bytes, magic: 8, seed: seed)
    }
    #expect(throws: FormatError.badChecksum) {
      try Frame.verify(block.bytes, magic: 7, seed: PoolSeed(otherPool))
    }
  }

  @Test func whatLiesInTheSystemAreaDoesNotOverlap() {
    let block = UInt64(Layout.metadataBlock)
    let starts = [
      Layout.labelOffset, Layout.labelCopyOffset, Layout.superblockOffsets.a,
      Layout.superblockOffsets.b, Layout.systemArea,
    ]
    for (start, next) in zip(starts, starts.dropFirst()) { #expect(start + block <= next) }
    #expect(Layout.systemArea % UInt64(Size.extent) == 0)
  }
}
