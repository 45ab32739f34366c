import Base
import DiskFormat
import Testing

@Suite struct PageTests {
  private let seed = PoolSeed(somePool)
  private let address = PageAddress(.bitmap, level: 1, device: 3, index: 77)

  private func encoded() -> (block: Block, crc: UInt32) {
    let block = Block()
    var random = Random(seed: 2)
    Page.begin(block.bytes, address)
    block.scramble(from: Page.header, count: 3000, &random)
    let crc = Page.seal(block.bytes, checkpoint: 9, seed: seed)
    return (block, crc)
  }

  @Test func aPageIsValidAtItsAddressOnly() {
    let (block, crc) = encoded()
    func isValid(_ address: PageAddress) -> Bool {
      Page.isValid(block.bytes, address, crc: crc, seed: seed)
    }
    #expect(isValid(address))
    #expect(!isValid(PageAddress(.extents, level: 1, device: 3, index: 77)))
    #expect(!isValid(PageAddress(.bitmap, level: 0, device: 3, index: 77)))
    #expect(!isValid(PageAddress(.bitmap, level: 1, device: 2, index: 77)))
    #expect(!isValid(PageAddress(.bitmap, level: 1, device: 3, index: 78)))
    #expect(!Page.isValid(block.bytes, address, crc: crc ^ 1, seed: seed))
    #expect(!Page.isValid(block.bytes, address, crc: crc, seed: PoolSeed(otherPool)))
    #expect(UnsafeRawPointer(block.bytes).u64(24) == 9)
  }

  @Test func everyFlippedBitIsNoticed() {
    let (block, crc) = encoded()
    let unnoticed = block.unnoticedFlips(0..<4096) {
      Page.isValid($0, address, crc: crc, seed: seed)
    }
    #expect(unnoticed == [])
  }

  @Test func anOlderTwinIsNotTaken() {
    let (block, crc) = encoded()
    let newer = Page.seal(block.bytes, checkpoint: 10, seed: seed)
    #expect(newer != crc)
    #expect(!Page.isValid(block.bytes, address, crc: crc, seed: seed))
  }

  @Test func contentFitsIntoAPage() {
    #expect(Page.header + Page.content == 4096)
    #expect(Page.recordsPerPage * ExtentRecord.bytes <= Page.content)
    #expect(Page.entriesPerPage * ChunkEntry.bytes <= Page.content)
    #expect(Page.bitsPerPage == Page.content * 8)
    #expect(Page.fanout == Page.entriesPerPage * Page.pagesPerChunk)
    #expect(Page.pagesPerChunk * 2 * 4096 == Size.extent)
  }

  @Test func chunkEntries() {
    let block = Block()
    var checks = [8 of UInt32](repeating: 0)
    for i in 0..<8 { checks[i] = 0x0101_0101 &* UInt32(i + 1) }
    let entry = ChunkEntry(
      address: SlotAddress(device: DeviceIndex(2), slot: 5), choices: 0xa5, checks: checks)
    block.bytes.initializeMemory(as: UInt8.self, repeating: 0xee, count: 4096)
    entry.encode(into: block.bytes + 41)
    #expect(ChunkEntry(block.bytes + 41) == entry)
    #expect(UnsafeRawPointer(block.bytes).u8(40) == 0xee)
    #expect(UnsafeRawPointer(block.bytes).u8(82) == 0xee)
    for bit in 41 * 8..<82 * 8 {
      block.flip(bit)
      #expect(ChunkEntry(block.bytes + 41) != entry)
      block.flip(bit)
    }
    #expect(entry.twinOffset(page: 0, second: false) == 5 << 16)
    #expect(entry.twinOffset(page: 0, second: true) == 5 << 16 + 4096)
    #expect(entry.twinOffset(page: 7, second: true) == 6 << 16 - 4096)
    block.bytes.zero(41)
    #expect(ChunkEntry(block.bytes) == .absent)
  }

  /// Each field has bytes of its own: changing one leaves the others.
  @Test func fieldsOfAnExtentRecordAreApart() {
    let block = Block()
    let record = ExtentRecord(block.bytes + 100)
    let changes: [(ExtentRecord) -> Void] =
      (0..<16).map { i in { $0.setCRC(i, 0xffff_ffff) } } + [
        { $0.home = SlotAddress(rawValue: .max) }, { $0.secondHome = SlotAddress(rawValue: .max) },
        { $0.present = .max }, { $0.lost = .max }, { $0.atSecond = .max }, { $0.flags = .max },
        { $0.birth = Epoch(.max) }, { $0.previous = .max },
      ]
    var bits = 0
    for change in changes {
      change(record)
      var set = 0
      for i in 0..<4096 { set += UnsafeRawPointer(block.bytes).u8(i).nonzeroBitCount }
      #expect(set > bits)
      bits = set
    }
    #expect(bits == ExtentRecord.bytes * 8)
    for i in 0..<16 { #expect(record.crc(i) == .max) }
    #expect(record.home.rawValue == .max && record.secondHome.rawValue == .max)
    #expect(record.present == .max && record.lost == .max && record.atSecond == .max)
    #expect(record.birth == Epoch(.max) && record.previous == .max)
    record.clear()
    #expect(record.isUnmapped)
    for i in 0..<4096 { #expect(UnsafeRawPointer(block.bytes).u8(i) == 0) }
  }

  @Test func flagsOfAnExtentRecordAreApart() {
    let record = ExtentRecord(Block().bytes)
    for role in [SecondRole.cachedCopy, .base, .mirror, .none] {
      for keeps in [true, false] {
        record.keepsAllocated = keeps
        record.role = role
        #expect(record.role == role && record.keepsAllocated == keeps)
        record.keepsAllocated = !keeps
        #expect(record.role == role && record.keepsAllocated == !keeps)
      }
    }
    record.lost = 1
    #expect(!record.isUnmapped)
  }
}
