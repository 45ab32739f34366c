import Base
import VolumeEngine

/// A request that the engine has and has not answered.
struct OpenRequest {
  enum Purpose { case client, observation }
  var purpose: Purpose
  var kind: RequestKind
  var flags: RequestFlags
  var offset: UInt64
  var length: UInt64
  var cells: Range<Int>
  /// Writes, trims and zeroings: the version; others: the time of issue.
  var mark: UInt32
  var cookie: UInt64
  var usesHoles = false
  var capacity: UInt32 = 0

  /// It touches whole blocks only.
  var isWhole: Bool { (offset | length) & 4095 == 0 }
}

/// The clients: what they ask next, and the memory their requests use.
///
/// Each slot has pages for the longest request and one page more, whose first bytes are a fence
/// that nobody may touch.
struct Clients {
  let scenario: Scenario
  let layout: CellLayout
  let content: Content
  /// One per slot; nil when the slot is free.
  private(set) var slots: [OpenRequest?]
  private let memory: UnsafeMutableRawPointer
  private let slotBytes: Int
  private let holes: UnsafeMutablePointer<UInt64>
  private var random: Random
  private var cookies: UInt64 = 0
  private(set) var openCount = 0

  private static let fence: UInt64 = 0x5c5c_5c5c_5c5c_5c5c
  static let holeWords = 5

  /// Bytes of client memory in the arena.
  static func memoryBytes(_ scenario: Scenario) -> Int {
    slotCount(scenario) * slotBytes(scenario) + Arena.cost(slotCount(scenario) * 8 * holeWords)
  }

  private static func slotCount(_ s: Scenario) -> Int { max(4, s.clients * s.depth) }
  private static func slotBytes(_ s: Scenario) -> Int { s.maxTransfer + 3 * Size.block }

  init(
    scenario: Scenario, layout: CellLayout, content: Content, random: Random,
    arena: inout Arena
  ) {
    self.scenario = scenario
    self.layout = layout
    self.content = content
    self.random = random
    let count = Clients.slotCount(scenario)
    slotBytes = Clients.slotBytes(scenario)
    slots = Array(repeating: nil, count: count)
    memory = arena.take(count * slotBytes)
    holes = arena.takeArray(of: UInt64.self, count: count * Clients.holeWords)
  }

  var hasRoom: Bool { openCount < slots.count }

  /// The process died: nobody waits for an answer any more.
  mutating func forgetAll() {
    for i in slots.indices { slots[i] = nil }
    openCount = 0
  }

  func memory(of slot: Int) -> UnsafeMutableRawPointer { memory + slot * slotBytes }
  func holes(of slot: Int) -> UnsafeMutablePointer<UInt64> { holes + slot * Clients.holeWords }

  // MARK: Drawing

  /// The next request of some client, as it goes into the reference and into the engine.
  mutating func draw(_ reference: Reference) -> VolumeRequest {
    let kinds: [RequestKind] = [
      .read, .write, .flush, .trim, .writeZeroes, .cache, .blockStatus,
    ]
    let kind = kinds[random.weighted(scenario.weights)]
    var flags: RequestFlags = []
    var cells = 0..<0
    switch kind {
    case .read, .write: cells = drawCells(most: scenario.maxTransfer, isTransfer: true)
    case .writeZeroes:
      if random.chance(scenario.keepChance) { flags.insert(.keepAllocated) }
      if random.chance(scenario.fastChance) { flags.insert(.onlyIfFast) }
      // To keep the gaps of a spread volume allocated would need room that no pool here has.
      cells = drawCells(
        most: scenario.maxRange << 12, isTransfer: flags.contains(.keepAllocated))
    case .trim, .cache, .blockStatus:
      cells = drawCells(most: scenario.maxRange << 12, isTransfer: false)
    case .flush: break
    }
    if kind == .write || kind == .trim || kind == .writeZeroes {
      if random.chance(scenario.durableChance) { flags.insert(.durable) }
    }
    if kind == .blockStatus && random.chance(300) { flags.insert(.oneDescriptor) }
    return begin(kind, flags, cells, .client, reference)
  }

  /// A range of cells of at most `most` bytes, ragged or of whole blocks.
  private mutating func drawCells(most: Int, isTransfer: Bool) -> Range<Int> {
    if scenario.placedWrites, layout.spread == 1, layout.blocks >= 32, most >= 65536,
      random.chance(scenario.extentChance)
    {
      // Whole extents, which may be written straight to their slots.
      let extents = layout.blocks / 16
      let first = random.below(extents)
      let count = random.within(1...min(most >> 16, extents - first))
      return first * 16 * layout.perBlock..<(first + count) * 16 * layout.perBlock
    }
    let isHot = random.chance(scenario.hotChance)
    let first = random.below(isHot ? min(scenario.hotBlocks, layout.blocks) : layout.blocks)
    var room = min(max(1, most >> 12), layout.blocks - first)
    if layout.spread > 1 && isTransfer { room = min(room, 16 - (first & 15)) }
    let blocks = random.chance(500) ? random.magnitude(room) : random.within(1...room)
    let whole = first * layout.perBlock..<(first + blocks) * layout.perBlock
    if layout.perBlock == 1 || random.chance(scenario.wholeBlockChance) { return whole }
    let lower = whole.lowerBound + random.below(layout.perBlock)
    let upper = whole.upperBound - random.below(layout.perBlock)
    return lower < upper ? lower..<upper : lower..<(lower + 1)
  }

  /// A read of blocks after a recovery.
  mutating func observe(blocks: Range<Int>, _ reference: Reference) -> VolumeRequest {
    let cells = blocks.lowerBound * layout.perBlock..<blocks.upperBound * layout.perBlock
    return begin(.read, [], cells, .observation, reference)
  }

  mutating func begin(
    _ kind: RequestKind, _ flags: RequestFlags, _ cells: Range<Int>,
    _ purpose: OpenRequest.Purpose, _ reference: Reference
  ) -> VolumeRequest {
    guard let slot = slots.firstIndex(where: { $0 == nil }) else {
      fatalError("S9: a request is drawn only when a slot is free")
    }
    let offset = cells.isEmpty ? 0 : layout.offset(cells.lowerBound)
    let length = cells.isEmpty ? 0 : layout.end(before: cells.upperBound) - offset
    cookies += 1
    let cookie = cookies << 16 | UInt64(slot)
    var request = VolumeRequest(
      kind, offset: offset, length: length, flags: flags, memory: memory(of: slot),
      cookie: cookie)
    var open = OpenRequest(
      purpose: purpose, kind: kind, flags: flags, offset: offset, length: length, cells: cells,
      mark: 0, cookie: cookie)
    switch kind {
    case .write, .trim, .writeZeroes:
      let isWhole = open.isWhole
      let isOneEntry = kind == .write ? offset >> 12 == (offset + length - 1) >> 12 : isWhole
      open.mark = reference.beginWrite(
        cells: kind == .trim ? wholeBlocks(in: cells) : cells, isZero: kind != .write,
        isDurable: flags.contains(.durable),
        isPoint: isOneEntry && scenario.hasStaging && !flags.contains(.durable))
    case .flush: open.mark = reference.beginFlush()
    case .read, .cache, .blockStatus: open.mark = reference.beginRead()
    }
    switch kind {
    case .write: fillWrite(slot, open)
    case .read:
      prepareRead(slot, open)
      if random.chance(300) {
        open.usesHoles = true
        request.holes = holes(of: slot)
      }
    case .blockStatus:
      open.capacity = UInt32(random.magnitude(256))
      request.descriptorCapacity = open.capacity
    case .flush, .trim, .writeZeroes, .cache: request.memory = nil
    }
    slots[slot] = open
    openCount += 1
    return request
  }

  /// A trim leaves the ragged edges of its range as they are.
  private func wholeBlocks(in cells: Range<Int>) -> Range<Int> {
    let n = layout.perBlock
    let lower = (cells.lowerBound + n - 1) / n * n
    let upper = cells.upperBound / n * n
    return lower..<max(lower, upper)
  }

  /// Whole pages are handed over; what lies beside the client's bytes is garbage.
  private func fillWrite(_ slot: Int, _ open: OpenRequest) {
    let pages = memory(of: slot)
    let head = Int(open.offset & 4095)
    let bytes = covered(open)
    pages.initializeMemory(as: UInt8.self, repeating: 0xa5, count: head)
    let end = head + Int(open.length)
    (pages + end).initializeMemory(as: UInt8.self, repeating: 0xa5, count: bytes - end)
    content.fill(pages + head, offset: open.offset, length: Int(open.length), version: open.mark)
    pages.put64(bytes, Clients.fence)
  }

  private func prepareRead(_ slot: Int, _ open: OpenRequest) {
    let pages = memory(of: slot)
    let bytes = covered(open)
    pages.initializeMemory(as: UInt8.self, repeating: 0xcc, count: bytes)
    pages.put64(bytes, Clients.fence)
  }

  /// Bytes of the whole blocks that a request touches.
  private func covered(_ open: OpenRequest) -> Int {
    (Int(open.offset & 4095) + Int(open.length) + 4095) & ~4095
  }

  // MARK: Answers

  /// The request of a reply, its slot freed.
  mutating func end(_ reply: VolumeReply) throws(Failure) -> (Int, OpenRequest) {
    let slot = Int(reply.cookie & 0xffff)
    guard slot < slots.count, let open = slots[slot], open.cookie == reply.cookie else {
      throw Failure("A reply with cookie \(reply.cookie), which no open request has.")
    }
    slots[slot] = nil
    openCount -= 1
    if open.kind == .read || open.kind == .write {
      if UnsafeRawPointer(memory(of: slot)).u64(covered(open)) != Clients.fence {
        throw Failure(
          "The memory behind a request of \(open.length) bytes at \(open.offset) was written.")
      }
    }
    return (slot, open)
  }

  /// Makes zeros of the blocks that a read called holes.
  func fillHoles(_ slot: Int, _ open: OpenRequest) {
    guard open.usesHoles else { return }
    let pages = memory(of: slot)
    let holes = holes(of: slot)
    for block in 0..<(covered(open) >> 12) where holes[block >> 6] >> (block & 63) & 1 == 1 {
      (pages + block << 12).zero(Size.block)
    }
  }

  /// The client's first byte.
  func bytes(_ slot: Int, _ open: OpenRequest) -> UnsafeMutableRawPointer {
    memory(of: slot) + Int(open.offset & 4095)
  }
}
