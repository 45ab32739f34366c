import Base
import DeviceIO
import DiskFormat
package import VolumeEngine

/// Stories that no seed tells in reasonable time, each told on purpose: a rule of the engine that
/// nothing but this story would miss. Told as it is, a story passes; told with its rule broken, it
/// fails.
package enum Story: String, CaseIterable, Sendable {
  /// An epoch ends between two lives: what the older one wrote is not patched.
  case twoEpochs
  /// A page's write is lost, and the place it was meant for holds a page that is valid in itself.
  case lostPage
  /// The writes of one superblock copy are lost, checkpoint after checkpoint.
  case lostSuperblocks
  /// Two lives write the same positions to the same segments, and the power keeps parts of both.
  case samePositionsTwice
  /// A placed extent is written over in part, and folded in, before any header says that the log
  /// is durable that far.
  case placedAndPatched
  /// A flush fails and forgets what was placed before it.
  case placedAndForgotten
  /// A superblock's write fails, and the power goes before another one has been written.
  case failedSuperblock
  /// A damaged log names a slot in which another extent lives.
  case slotOfAnother
  /// The volume grows, and the process dies when a write beyond its old end is answered.
  case growth

  /// The rule that this story watches over.
  package var planted: PlantedBug {
    switch self {
    case .twoEpochs: .olderEpochPatched
    case .lostPage: .pageCheckedAlone
    case .lostSuperblocks: .olderSuperblockTaken
    case .samePositionsTwice: .recordWithoutIncarnation
    case .placedAndPatched: .placedPatchedEarly
    case .placedAndForgotten: .placedTrustedAfterFailure
    case .failedSuperblock: .checkpointBuiltAnew
    case .slotOfAnother: .mappedSlotAdopted
    case .growth: .grownEarly
    }
  }

  /// Tells it, and prints every event when `isVerbose`; throws when something in it went wrong.
  package func tell(planted: PlantedBug?, isVerbose: Bool = false) throws(Failure) {
    var scenario = Exhaustive.scenario(0)
    scenario.ringBytes = 1 << 20
    switch self {
    case .placedAndPatched, .placedAndForgotten, .slotOfAnother:
      scenario.placedWrites = true
      scenario.blocks = 64
      scenario.devices[0].geometry.size = 16 << 20
    default: break
    }
    if self == .growth {
      scenario.isFormattedSmall = true
      scenario.growsAtOpening = false
      scenario.blocks = 64
    }
    switch self {
    case .lostPage, .slotOfAnother:
      // Damage is in this world, and what it takes cannot be read.
      scenario.faults.rot = 1
      scenario.faults.budget = 1
    case .placedAndForgotten, .failedSuperblock:
      // Errors are in this world, and nothing is lost.
      scenario.faults.budget = 1
    default: break
    }
    let world = try World(scenario, planted: planted)
    world.trace.isVerbose = isVerbose
    LastWords.watch(world.trace, limit: 100)
    defer { LastWords.watch(nil, limit: 0) }
    do throws(Failure) {
      switch self {
      case .twoEpochs: try world.tellOfTwoEpochs()
      case .lostPage: try world.tellOfLostPage()
      case .lostSuperblocks: try world.tellOfLostSuperblocks()
      case .samePositionsTwice: try world.tellOfSamePositionsTwice()
      case .placedAndPatched: try world.tellOfPlacedAndPatched()
      case .placedAndForgotten: try world.tellOfPlacedAndForgotten()
      case .failedSuperblock: try world.tellOfFailedSuperblock()
      case .slotOfAnother: try world.tellOfSlotOfAnother()
      case .growth: try world.tellOfGrowth()
      }
    } catch {
      let lines = world.trace.tail(100) + ["Story \(self): \(error.message)"]
      throw Failure(lines.joined(separator: "\n"))
    }
  }
}

/// What stories are told with.
extension World {
  func begin() throws(Failure) {
    guard try openThroughCrashes() else { throw Failure("The pool does not open.") }
    try observeAll()
  }

  func write(blocks: Range<Int>, _ flags: RequestFlags = []) {
    let n = layout.perBlock
    let cells = blocks.lowerBound * n..<blocks.upperBound * n
    submit(clients.begin(.write, flags, cells, .client, reference))
  }

  func flush() { submit(clients.begin(.flush, [], 0..<0, .client, reference)) }

  func awaitReplies() throws(Failure) {
    try settle("a request", until: { self.clients.openCount == 0 })
  }

  /// Lets everything be folded into homes.
  func drain() throws(Failure) {
    try awaitReplies()
    engine.pointee.drainSoon()
    var turns = 0
    try settle("a drain", until: {
      turns += 1
      return turns > 500
    })
  }

  /// The process or the machine dies, with what `landing` leaves of each write.
  func die(_ crash: Crash, landing: @escaping (Int, Int, Int) -> Int) {
    devices.landing = landing
    carryOut(crash)
    devices.landing = nil
    drop()
    staging.endProcess()
  }

  func superblock() throws(Failure) -> Superblock {
    do {
      return try Superblock.decode(
        devices.devices[0].current + Int(Layout.superblockOffsets.a), pool: poolID)
    } catch {
      throw Failure("No superblock: \(error)")
    }
  }

  /// The chunk entry that names the first page of records.
  func firstPage() throws(Failure) -> ChunkEntry {
    var entry = try superblock().extentRoot
    for _ in 0..<Page.height(.extents) { entry = ChunkEntry(page(entry) + Page.header) }
    return entry
  }

  /// The first page of a chunk, the twin that counts.
  func page(_ entry: ChunkEntry) -> UnsafeMutableRawPointer {
    devices.devices[entry.address.device.index].current
      + Int(entry.twinOffset(page: 0, second: entry.choices & 1 != 0))
  }
}
