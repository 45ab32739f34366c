import Base
import Testing
import VolumeEngine

@Suite struct SlotBitmapTests {
  /// One entry a slot, searched one by one.
  struct Model {
    var busy: [Bool]
    var mapped: [Bool]
    var dirty: Set<Int> = []

    init(_ slots: Int) {
      busy = Array(repeating: false, count: slots)
      mapped = busy
    }

    /// The first free slot at or after `start`, going on at 0.
    func free(from start: Int) -> Int? {
      busy[start...].firstIndex(of: false) ?? busy[..<start].firstIndex(of: false)
    }
  }

  private func withBitmap<R>(
    _ slots: Int, _ body: (inout SlotBitmap) throws -> R
  ) rethrows -> R {
    try withArena(SlotBitmap.bytes(slotCount: UInt64(slots))) { arena in
      var bitmap = SlotBitmap(slotCount: UInt64(slots), in: &arena)
      return try body(&bitmap)
    }
  }

  private func agrees(_ bitmap: borrowing SlotBitmap, _ model: Model) -> Bool {
    for slot in 0..<model.busy.count {
      if bitmap.isBusy(UInt64(slot)) != model.busy[slot] { return false }
      if bitmap.isMapped(UInt64(slot)) != model.mapped[slot] { return false }
    }
    var pages: [Int] = []
    for page in 0..<bitmap.pageCount where bitmap.isDirty(page) { pages.append(page) }
    var walked: [Int] = []
    var next = bitmap.nextDirty(from: 0)
    while let page = next {
      walked.append(page)
      next = bitmap.nextDirty(from: page + 1)
    }
    return pages == model.dirty.sorted() && walked == pages
      && Int(bitmap.freeCount) == model.busy.count { !$0 }
      && Int(bitmap.mappedCount) == model.mapped.count { $0 }
  }

  /// Every size up to four words: hands out each slot once, in order, then each again wherever
  /// the search begins.
  @Test func everySmallSize() {
    for slots in 1...257 {
      withBitmap(slots) { bitmap in
        #expect(bitmap.freeCount == UInt64(slots))
        #expect(bitmap.pageCount == 1)
        for slot in 0..<slots { #expect(bitmap.allocate(near: nil) == UInt64(slot)) }
        #expect(bitmap.allocate(near: nil) == nil)
        #expect(bitmap.allocate(near: 0) == nil)
        for slot in 0..<slots {
          bitmap.clearBusy(UInt64(slot))
          let hint = UInt64((slot * 31 + 7) % (slots + 1))
          #expect(bitmap.allocate(near: hint) == UInt64(slot))
        }
        #expect(bitmap.freeCount == 0)
      }
    }
  }

  @Test func theHintComesFirstThenWhatFollows() {
    withBitmap(1000) { bitmap in
      #expect(bitmap.allocate(near: 500) == 500)
      #expect(bitmap.allocate(near: 500) == 501)
      #expect(bitmap.allocate(near: 999) == 999)
      #expect(bitmap.allocate(near: 999) == 0)
      #expect(bitmap.allocate(near: 1000) == 1)
      #expect(bitmap.allocate(near: nil) == 2)
      bitmap.clearBusy(1)
      #expect(bitmap.allocate(near: nil) == 3)
    }
  }

  /// The last free slot is found across all levels of the summary: 64 slots a word, 4,096 a
  /// summary word, 262,144 a word of the second summary.
  @Test(arguments: [4096, 262_144, 600_001]) func theLastFreeSlotIsFound(slots: Int) {
    withBitmap(slots) { bitmap in
      for _ in 0..<slots { _ = bitmap.allocate(near: nil) }
      #expect(bitmap.freeCount == 0)
      let borders = [0, 1, 63, 64, 4095, 4096, 262_143, 262_144, slots / 2, slots - 1]
      for slot in borders where slot < slots {
        for hint in borders where hint < slots {
          bitmap.clearBusy(UInt64(slot))
          #expect(bitmap.allocate(near: UInt64(hint)) == UInt64(slot))
        }
      }
    }
  }

  @Test(arguments: [70, 5000, 40_000]) func agreesWithModelAtRandom(slots: Int) {
    var random = Random(seed: UInt64(slots))
    withBitmap(slots) { bitmap in
      var model = Model(slots)
      var cursor = 0
      for round in 0..<40 {
        let fill = random.next(below: 1000)
        for _ in 0..<slots / 10 {
          step(&bitmap, &model, &cursor, fill, &random)
        }
        check(agrees(bitmap, model), "round \(round)")
        if random.chance(300) {
          bitmap.clearDirty()
          model.dirty = []
        }
      }
    }
  }

  /// One random change, `fill` of 1000 times an allocation.
  private func step(
    _ bitmap: inout SlotBitmap, _ model: inout Model, _ cursor: inout Int, _ fill: Int,
    _ random: inout Random
  ) {
    let slot = random.next(below: model.busy.count)
    if random.chance(fill) {
      let hint = random.chance(500) ? slot : nil
      let want = model.free(from: hint ?? (cursor == model.busy.count ? 0 : cursor))
      let got = bitmap.allocate(near: hint.map { UInt64($0) })
      #expect(got == want.map { UInt64($0) })
      guard let want else { return }
      model.busy[want] = true
      if hint == nil { cursor = want + 1 }
    } else if model.mapped[slot] {
      bitmap.clearMapped(UInt64(slot))
      model.mapped[slot] = false
      model.dirty.insert(slot / 32000)
    } else if !model.busy[slot] {
      bitmap.setBusy(UInt64(slot))
      model.busy[slot] = true
    } else if random.chance(500) {
      bitmap.setMapped(UInt64(slot))
      model.mapped[slot] = true
      model.dirty.insert(slot / 32000)
    } else {
      bitmap.clearBusy(UInt64(slot))
      model.busy[slot] = false
    }
  }

  @Test func pagesCarryTheMappedBits() {
    let slots = 70_000
    var random = Random(seed: 4)
    withBitmap(slots) { bitmap in
      #expect(bitmap.pageCount == 3)
      var model = Model(slots)
      for _ in 0..<20_000 {
        let slot = random.next(below: slots)
        bitmap.setBusy(UInt64(slot))
        if random.chance(700) {
          bitmap.setMapped(UInt64(slot))
          model.mapped[slot] = true
        }
      }
      model.busy = model.mapped
      withBitmap(slots) { copy in
        copyPages(bitmap, &copy, model)
        check(agrees(copy, model))
      }
    }
  }

  /// Loads what one bitmap's pages hold into the other, checking each bit on the way.
  private func copyPages(
    _ bitmap: borrowing SlotBitmap, _ copy: inout SlotBitmap, _ model: Model
  ) {
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 4000, alignment: 8)
    defer { bytes.deallocate() }
    for page in 0..<bitmap.pageCount {
      bitmap.copyMappedBits(page: page, to: bytes)
      for i in 0..<32000 {
        let slot = page * 32000 + i
        let bit = bytes.load(fromByteOffset: i >> 3, as: UInt8.self) >> UInt8(i & 7) & 1
        let want = slot < model.mapped.count && model.mapped[slot]
        if (bit == 1) != want { Issue.record("bit \(i) of page \(page)") }
      }
      copy.loadMappedBits(page: page, from: bytes)
    }
  }

  @Test func loadingReplacesWhatIsMappedAndIgnoresWhatIsNoSlot() {
    let slots = 32000 + 100
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: 4000, alignment: 8)
    defer { bytes.deallocate() }
    bytes.initializeMemory(as: UInt8.self, repeating: 0xf0, count: 4000)
    withBitmap(slots) { bitmap in
      var model = Model(slots)
      bitmap.setBusy(32001)
      bitmap.setMapped(32001)
      bitmap.clearDirty()
      bitmap.loadMappedBits(page: 1, from: bytes)
      for i in 0..<100 where i & 7 >= 4 {
        model.busy[32000 + i] = true
        model.mapped[32000 + i] = true
      }
      model.busy[32001] = true
      check(agrees(bitmap, model))
      bitmap.markDirty(0)
      model.dirty = [0]
      check(agrees(bitmap, model))
      var free = Int(bitmap.freeCount)
      while bitmap.allocate(near: 32000) != nil { free -= 1 }
      #expect(free == 0)
    }
  }

  @Test func aMappedSlotIsNotFreed() async {
    await #expect(processExitsWith: .failure) {
      withArena(SlotBitmap.bytes(slotCount: 10)) { arena in
        var bitmap = SlotBitmap(slotCount: 10, in: &arena)
        bitmap.setBusy(3)
        bitmap.setMapped(3)
        bitmap.clearBusy(3)
      }
    }
  }

  @Test func aFreeSlotIsNotMapped() async {
    await #expect(processExitsWith: .failure) {
      withArena(SlotBitmap.bytes(slotCount: 10)) { arena in
        var bitmap = SlotBitmap(slotCount: 10, in: &arena)
        bitmap.setMapped(3)
      }
    }
  }
}
