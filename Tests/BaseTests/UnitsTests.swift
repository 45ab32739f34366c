import Base
import Testing

@Suite struct UnitsTests {
  @Test func blocksAndExtents() {
    for raw in [0, 1, 15, 16, 17, 1 << 40 - 1] as [UInt64] {
      let block = BlockIndex(raw)
      #expect(block.extent.block(block.inExtent) == block)
      #expect(block.extent.rawValue == raw / 16)
    }
  }

  @Test func slotAddresses() {
    #expect(SlotAddress.none.isNone)
    for device in [0, 1, 31, 254] {
      for slot in [0, 1, 1 << 48 - 1] as [UInt64] {
        let address = SlotAddress(device: DeviceIndex(device), slot: slot)
        #expect(!address.isNone)
        #expect(address.device == DeviceIndex(device))
        #expect(address.slot == slot)
        #expect(address.byteOffset == slot << 16)
        #expect(SlotAddress(rawValue: address.rawValue) == address)
      }
    }
  }

  @Test func identitiesAsText() {
    var random = Random(seed: 9)
    for _ in 0..<100 {
      let identity = Identity(high: random.next() >> 4, low: random.next() >> 12)
      #expect(identity.description.count == 36)
      #expect(Identity(identity.description) == identity)
      #expect(Identity(identity.description.filter { $0 != "-" }) == identity)
    }
    for text in ["", "x", "0123", String(repeating: "g", count: 32)] {
      #expect(Identity(text) == nil)
    }
  }

  @Test func timesDoNotGoBelowZero() {
    let early = Instant(nanoseconds: 5)
    let late = early + Milliseconds(2)
    #expect(late.since(early) == 2_000_000)
    #expect(early.since(late) == 0)
  }

  @Test func littleEndianBytes() {
    withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { buffer in
      let p = buffer.baseAddress!
      p.zero(32)
      p.put32(1, 0x0403_0201)
      p.put16(5, 0x0605)
      p.put8(7, 7)
      p.putIdentity(9, Identity(high: 0x1817_1615_1413_1211, low: 0x2827_2625_2423_2221))
      let bytes: [UInt8] = Array(buffer)
      #expect(bytes[..<9] == [0, 1, 2, 3, 4, 5, 6, 7, 0])
      #expect(bytes[9] == 0x11 && bytes[16] == 0x18 && bytes[17] == 0x21 && bytes[24] == 0x28)
      let q = UnsafeRawPointer(p)
      #expect(q.u32(1) == 0x0403_0201 && q.u16(5) == 0x0605 && q.u8(7) == 7)
      #expect(q.u64(9) == 0x1817_1615_1413_1211)
      #expect(q.identity(9) == Identity(high: q.u64(9), low: q.u64(17)))
    }
  }
}
