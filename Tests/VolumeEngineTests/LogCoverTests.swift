import Base
import Testing
import VolumeEngine

@Suite struct LogCoverTests {
  /// Against a plain set, over few blocks so that ranges touch, overlap and hold one another.
  @Test func coversWhatWasAdded() {
    var random = Random(seed: 7)
    for _ in 0..<300 {
      var cover = LogCover()
      var covered = Set<UInt64>()
      for _ in 0..<random.next(below: 12) {
        let start = UInt64(random.next(below: 120))
        let count = UInt64(random.next(below: 3) == 0 ? 1 : random.next(below: 40))
        if count == 1 {
          cover.add(BlockIndex(start))
        } else {
          cover.add(BlockIndex(start), count: count)
        }
        for block in start..<start + count { covered.insert(block) }
      }
      cover.finish()
      for extent in 0..<UInt64(11) {
        var wanted: UInt16 = 0
        for i in 0..<UInt64(16) where covered.contains(extent * 16 + i) { wanted |= 1 << i }
        #expect(cover.blocks(of: ExtentIndex(extent)) == wanted)
      }
    }
  }

  /// A count from a device may be anything.
  @Test func aRangeEndsWithTheNumbers() {
    var cover = LogCover()
    cover.add(BlockIndex(16), count: .max)
    cover.finish()
    #expect(cover.blocks(of: ExtentIndex(0)) == 0)
    #expect(cover.blocks(of: ExtentIndex(1 << 40)) == .max)
  }
}
