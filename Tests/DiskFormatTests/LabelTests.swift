import Base
import DiskFormat
import Testing

@Suite struct LabelTests {
  private let label = Label(
    pool: somePool, device: Identity(high: 3, low: 4), index: DeviceIndex(5),
    tier: TierIndex(2), deviceCount: 9, size: 1 << 40)

  private func encoded() -> Block {
    let block = Block()
    label.encode(into: block.bytes)
    return block
  }

  @Test func roundTrip() throws {
    let block = encoded()
    #expect(try Label.decode(block.bytes) == label)
    let p = UnsafeRawPointer(block.bytes)
    #expect(p.u32(8) == Layout.formatVersion)
    #expect(p.identity(16) == somePool)
    #expect(p.identity(32) == label.device)
    #expect(p.u8(48) == 5 && p.u8(49) == 2 && p.u8(50) == 9)
    #expect(p.u64(56) == 1 << 40)
  }

  @Test func everyFlippedBitIsNoticed() {
    #expect(encoded().unnoticedFlips(0..<4096) { (try? Label.decode($0)) != nil } == [])
  }

  @Test func anEmptyBlockIsNoLabel() {
    #expect(throws: FormatError.notFound) { try Label.decode(Block().bytes) }
  }

  @Test func whatCannotBeIsRefused() {
    for (offset, value) in [(8, 99), (48, 32), (48, 255), (49, 8)] as [(Int, UInt8)] {
      let block = encoded()
      block.bytes.put8(offset, value)
      Frame.seal(
        block.bytes, magic: UnsafeRawPointer(block.bytes).u32(0), seed: PoolSeed(somePool))
      do {
        _ = try Label.decode(block.bytes)
        Issue.record("\(value) at \(offset) was accepted")
      } catch {
        guard case .mismatch = error else {
          Issue.record("\(error)")
          continue
        }
      }
    }
  }
}
