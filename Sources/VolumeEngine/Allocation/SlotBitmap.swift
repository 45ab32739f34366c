package import Base

/// The slots of one device, two bits each. *Mapped*: the checkpoint being built names the slot;
/// this is what bitmap pages hold. *Busy*: it must not be handed out, because it is mapped,
/// belongs to the system area, or is placed, in flight, pinned or quarantined.
///
///     free ──allocate, setBusy──► busy ──setMapped──► mapped
///     free ◄─────clearBusy─────── busy ◄─clearMapped── mapped
///
/// Two levels of summary bits lie over `busy`, each bit saying that a word of the level below is
/// full: finding a free slot of 2^28 reads a few dozen words. Bits past the last slot are busy
/// and not counted.
///
/// SB1  What is mapped is busy.
/// SB2  `freeCount` and `mappedCount` are the numbers of bits; free + busy = all.
/// SB3  A summary bit is set exactly when its word is full.
/// SB4  Pages whose mapped bits changed since the last `clearDirty` are dirty.
package struct SlotBitmap: ~Copyable {
  /// Mapped bits that one bitmap page holds.
  package static var bitsPerPage: Int { 32000 }
  private static var wordsPerPage: Int { 500 }

  package let slotCount: UInt64
  /// Bitmap pages that hold the device's mapped bits; the last may be partly used.
  package let pageCount: Int
  /// Slots that are not busy.
  package private(set) var freeCount: UInt64
  /// Slots that are mapped.
  package private(set) var mappedCount: UInt64 = 0

  private let mapped: UnsafeMutablePointer<UInt64>
  private let busy: UnsafeMutablePointer<UInt64>
  private let full1: UnsafeMutablePointer<UInt64>
  private let full2: UnsafeMutablePointer<UInt64>
  private let dirty: UnsafeMutablePointer<UInt64>
  private let words: Int
  private var cursor: UInt64 = 0

  /// A device all of whose slots are free.
  package init(slotCount: UInt64, in arena: inout Arena) {
    invariant(slotCount > 0 && slotCount < 1 << 48, "SB5: a slot's number has 48 bits")
    self.slotCount = slotCount
    freeCount = slotCount
    pageCount = Self.pages(slotCount)
    words = pageCount * Self.wordsPerPage
    // SAFETY: the arena hands out zero-filled memory that outlives the bitmap.
    mapped = arena.takeArray(of: UInt64.self, count: words)
    busy = arena.takeArray(of: UInt64.self, count: words)
    full1 = arena.takeArray(of: UInt64.self, count: Self.over(words))
    full2 = arena.takeArray(of: UInt64.self, count: Self.over(Self.over(words)))
    dirty = arena.takeArray(of: UInt64.self, count: Self.over(pageCount))
    fillTail(busy, from: Int(slotCount), words)
    fillTail(full1, from: (Int(slotCount) + 63) >> 6, Self.over(words))
    fillTail(full2, from: (Int(slotCount) + 4095) >> 12, Self.over(Self.over(words)))
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(slotCount: UInt64) -> Int {
    let words = pages(slotCount) * wordsPerPage
    return 2 * Arena.cost(words * 8) + Arena.cost(over(words) * 8)
      + Arena.cost(over(over(words)) * 8) + Arena.cost(over(pages(slotCount)) * 8)
  }

  // MARK: Single slots

  package func isBusy(_ slot: UInt64) -> Bool { busy[word(slot)] & bit(slot) != 0 }

  package func isMapped(_ slot: UInt64) -> Bool { mapped[word(slot)] & bit(slot) != 0 }

  /// Takes the slot out of what can be handed out; it may have been already.
  package mutating func setBusy(_ slot: UInt64) {
    let w = word(slot)
    if busy[w] & bit(slot) != 0 { return }
    busy[w] |= bit(slot)
    freeCount -= 1
    if busy[w] == .max { markFull(w) }
  }

  /// Makes a busy slot free. It is not mapped.
  package mutating func clearBusy(_ slot: UInt64) {
    let w = word(slot)
    invariant(mapped[w] & bit(slot) == 0, "SB1: a mapped slot stays busy")
    invariant(busy[w] & bit(slot) != 0, "SB2: a slot is freed once")
    busy[w] &= ~bit(slot)
    full1[w >> 6] &= ~(1 << UInt64(w & 63))
    full2[w >> 12] &= ~(1 << UInt64(w >> 6 & 63))
    freeCount += 1
  }

  /// Says that the checkpoint being built names the slot, which is busy; it may have already.
  package mutating func setMapped(_ slot: UInt64) {
    let w = word(slot)
    invariant(busy[w] & bit(slot) != 0, "SB1: a slot is busy before it is mapped")
    if mapped[w] & bit(slot) != 0 { return }
    mapped[w] |= bit(slot)
    mappedCount += 1
    markDirty(w / Self.wordsPerPage)
  }

  /// Says that the checkpoint being built names the slot no longer. It stays busy.
  package mutating func clearMapped(_ slot: UInt64) {
    let w = word(slot)
    invariant(mapped[w] & bit(slot) != 0, "SB2: a slot is unmapped once")
    mapped[w] &= ~bit(slot)
    mappedCount -= 1
    markDirty(w / Self.wordsPerPage)
  }

  // MARK: Allocation

  /// Makes a free slot busy and returns it: `hint`, or the next free one after it, going on at 0
  /// after the last. Without a hint the search begins after the slot that was last returned
  /// without one. Nil when no slot is free.
  package mutating func allocate(near hint: UInt64?) -> UInt64? {
    if freeCount == 0 { return nil }
    var start = hint ?? cursor
    if start >= slotCount { start = 0 }
    var found = firstFree(from: Int(start))
    if found == nil { found = firstFree(from: 0) }
    guard let found, found < Int(slotCount) else {
      invariant(false, "SB2: a free slot that is counted is found")
      return nil
    }
    setBusy(UInt64(found))
    if hint == nil { cursor = UInt64(found) + 1 }
    return UInt64(found)
  }

  /// The first free slot at or after `slot`.
  private func firstFree(from slot: Int) -> Int? {
    if let found = Self.firstClear(busy[slot >> 6], from: slot) { return found }
    let next = slot >> 6 + 1
    guard let w = firstNotFull(from: next), w < words else { return nil }
    return Self.firstClear(busy[w], from: w << 6)
  }

  /// The first word of `busy` at or after number `w` that is not full.
  private func firstNotFull(from w: Int) -> Int? {
    if w >= words { return nil }
    if let found = Self.firstClear(full1[w >> 6], from: w) { return found }
    var i = w >> 6 + 1
    let count = Self.over(words)
    while i < count {
      if let found = Self.firstClear(full2[i >> 6], from: i) {
        return found < count ? Self.firstClear(full1[found], from: found << 6) : nil
      }
      i = (i | 63) + 1
    }
    return nil
  }

  /// The number of the first clear bit of `word` at or after number `bit`, where numbers go on
  /// from word to word.
  @inline(__always)
  private static func firstClear(_ word: UInt64, from bit: Int) -> Int? {
    let clear = ~word & (UInt64.max << UInt64(bit & 63))
    return clear == 0 ? nil : (bit & ~63) + clear.trailingZeroBitCount
  }

  private func markFull(_ w: Int) {
    full1[w >> 6] |= 1 << UInt64(w & 63)
    if full1[w >> 6] == .max { full2[w >> 12] |= 1 << UInt64(w >> 6 & 63) }
  }

  // MARK: Pages

  /// Writes a page's mapped bits, 4,000 bytes: bit *i* of the page is bit *i* & 7 of byte *i* / 8.
  package func copyMappedBits(page: Int, to target: UnsafeMutableRawPointer) {
    invariant(page >= 0 && page < pageCount, "SB6: a page is one of the device's")
    for i in 0..<Self.wordsPerPage {
      target.put64(i * 8, mapped[page * Self.wordsPerPage + i])
    }
  }

  /// Adds the busy bits of a page: only for the test of the tests.
  func addBusyBits(page: Int, to target: UnsafeMutableRawPointer) {
    for i in 0..<Self.wordsPerPage {
      let w = page * Self.wordsPerPage + i
      target.put64(i * 8, (mapped[w] | busy[w]) & slotMask(w))
    }
  }

  /// Reads a page's mapped bits, 4,000 bytes, in place of those there were. What is mapped
  /// becomes busy, nothing becomes free, the page does not become dirty; bits past the last slot
  /// are ignored.
  package mutating func loadMappedBits(page: Int, from source: UnsafeRawPointer) {
    invariant(page >= 0 && page < pageCount, "SB6: a page is one of the device's")
    for i in 0..<Self.wordsPerPage {
      let w = page * Self.wordsPerPage + i
      let loaded = source.u64(i * 8) & slotMask(w)
      mappedCount += UInt64(loaded.nonzeroBitCount)
      mappedCount -= UInt64(mapped[w].nonzeroBitCount)
      mapped[w] = loaded
      freeCount -= UInt64((loaded & ~busy[w]).nonzeroBitCount)
      busy[w] |= loaded
      if busy[w] == .max { markFull(w) }
    }
  }

  /// Whether the page's mapped bits changed since the last `clearDirty`.
  package func isDirty(_ page: Int) -> Bool {
    invariant(page >= 0 && page < pageCount, "SB6: a page is one of the device's")
    return dirty[page >> 6] & 1 << UInt64(page & 63) != 0
  }

  /// The first dirty page at or after number `page`; nil when there is none.
  package func nextDirty(from page: Int) -> Int? {
    var w = page >> 6
    var mask = UInt64.max << UInt64(page & 63)
    while w < Self.over(pageCount) {
      let found = dirty[w] & mask
      if found != 0 { return w << 6 + found.trailingZeroBitCount }
      mask = .max
      w += 1
    }
    return nil
  }

  /// Forgets that one page has changed.
  package mutating func clearDirty(_ page: Int) { dirty[page >> 6] &= ~(1 << UInt64(page & 63)) }

  package mutating func clearDirty() { dirty.update(repeating: 0, count: Self.over(pageCount)) }

  package mutating func markDirty(_ page: Int) {
    invariant(page >= 0 && page < pageCount, "SB6: a page is one of the device's")
    dirty[page >> 6] |= 1 << UInt64(page & 63)
  }

  // MARK: Words

  private func word(_ slot: UInt64) -> Int {
    invariant(slot < slotCount, "SB5: a slot is one of the device's")
    return Int(slot >> 6)
  }

  @inline(__always)
  private func bit(_ slot: UInt64) -> UInt64 { 1 << (slot & 63) }

  /// The bits of word `w` that stand for slots.
  private func slotMask(_ w: Int) -> UInt64 {
    let bits = Int(slotCount) - w << 6
    return bits >= 64 ? .max : bits <= 0 ? 0 : 1 << UInt64(bits) - 1
  }

  /// Sets the bits from `from` to the end of the `count` words.
  private func fillTail(_ bits: UnsafeMutablePointer<UInt64>, from: Int, _ count: Int) {
    var i = from
    while i < count << 6 {
      bits[i >> 6] |= UInt64.max << UInt64(i & 63)
      i = (i | 63) + 1
    }
  }

  private static func pages(_ slotCount: UInt64) -> Int {
    (Int(slotCount) + bitsPerPage - 1) / bitsPerPage
  }

  /// Words that hold `bits` bits.
  private static func over(_ bits: Int) -> Int { (bits + 63) >> 6 }
}
