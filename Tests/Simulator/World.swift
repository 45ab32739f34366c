import Base
import DeviceIO
import DiskFormat
import Glibc
package import VolumeEngine

/// One seed's world: the real engine between simulated clients, devices, staging memory and time,
/// and a reference that knows what every read may return.
///
///     format ─► open ─► observe ─► serve ─► end ─┬─► check ─► open …
///                ▲        every block    clean,  │
///                └── crash during recovery kill, └─► at last: healed devices, rest,
///                    up to three deep     power      clean shutdown, check, open, observe
///
/// Everything that happens follows from the seed. Two oracles judge: *never lie* (each answer is
/// one that the reference admits) always, and *must succeed* (no error, no refusal, nothing
/// stuck) while the faults are such that nothing may be lost.
package final class World {
  package let scenario: Scenario
  package let trace: Trace
  let devices: SimulatedDevices
  let staging: SimulatedStaging
  let reference: Reference
  let policy: RandomPolicy
  let layout: CellLayout
  let content: Content
  let log: LogGeometry
  var random: Random
  var clients: Clients
  /// The engine's home; initialised while `isOpen`.
  // SAFETY: allocated in `init`, freed in `deinit`; only `adopt` and `drop` change what it holds.
  let engine = UnsafeMutablePointer<Volume>.allocate(capacity: 1)
  private(set) var isOpen = false
  /// A damaged pool that does not open any more: the story ends.
  private var isGone = false
  var options: VolumeOptions
  /// The arena's memory: clients' pages first, for the whole run; then the engine's, anew for
  /// each life.
  // SAFETY: mapped in `init`, unmapped in `deinit`; the volume dies before it.
  let memory: UnsafeMutableRawPointer
  let memoryBytes: Int
  let clientBytes: Int

  var now = Instant(nanoseconds: 1_000_000_000)
  var poolID = Identity.zero
  package private(set) var report = Report()
  /// Blocks still to be observed after a recovery, as ranges, last first.
  var toObserve: [Range<Int>] = []
  var retries = 0

  package struct Report: Sendable {
    package var requests = 0
    package var turns = 0
    package var recoveries = 0
    package var crashes = 0
    package var recoveryCrashes = 0
    package var refusals = 0
    package var errors = 0
    package var noSpace = 0
    package var unreadable = 0
    package var faults = 0
    package var checks = 0
    package var checkpoints = 0
    package var traceHash: UInt64 = 0

    package init() {}
  }

  package convenience init(seed: UInt64, planted: PlantedBug? = nil) throws(Failure) {
    try self.init(Scenario(seed: seed), planted: planted)
  }

  init(_ scenario: Scenario, planted: PlantedBug?) throws(Failure) {
    self.scenario = scenario
    let seed = scenario.seed
    trace = Trace()
    random = Random(seed: seed ^ 0x776f_726c_64)
    layout = CellLayout(
      edges: scenario.cellEdges, blocks: scenario.blocks, spread: scenario.spread)
    content = Content(seed: seed)
    devices = SimulatedDevices(
      scenario.devices.map { $0.geometry }, random: random.fork(), trace: trace)
    devices.order = scenario.order
    staging = SimulatedStaging(isUsable: scenario.hasStaging)
    reference = Reference(layout: layout, content: content)
    reference.isRelaxed = scenario.faults.isHostile
    policy = RandomPolicy(
      moves: scenario.moves, restlessness: scenario.restlessness, rate: scenario.moveRate,
      random: random.fork())
    poolID = Identity(high: random.next(), low: random.next())

    let (plan, log) = try World.format(
      scenario, layout: layout, pool: poolID, devices: devices)
    self.log = log
    options = VolumeOptions(
      bootID: Identity(high: random.next(), low: random.next()), memory: plan)
    options.placedWrites = scenario.placedWrites
    if scenario.growsAtOpening { options.volumeSize = layout.volumeSize }
    options.placedLeast = 64 << 10
    options.planted = planted
    clientBytes = Clients.memoryBytes(scenario)
    memoryBytes = (clientBytes + plan.arenaBytes + plan.ringBytes + 65535) & ~65535
    let mapped = mmap(
      nil, memoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
      0)
    guard let mapped, mapped != MAP_FAILED else { throw Failure("No memory for the arena.") }
    memory = mapped
    var arena = Arena(base: memory, capacity: memoryBytes)
    clients = Clients(
      scenario: scenario, layout: layout, content: content, random: random.fork(),
      arena: &arena)
    let low = UnsafeRawPointer(memory)
    let high = low + memoryBytes
    let staging = staging
    devices.isTransferable = { pointer, length in
      (pointer >= low && pointer + length <= high) || staging.contains(pointer, length)
    }
  }

  deinit {
    drop()
    engine.deallocate()
    munmap(memory, memoryBytes)
  }

  // MARK: The story

  /// Lives the whole seed.
  package func run() throws(Failure) -> Report {
    devices.faults = scenario.faults
    var alive = true
    for life in 0..<scenario.lives where alive {
      trace.record(.act, "life", UInt64(life))
      alive = try openThroughCrashes()
      guard alive else { break }
      try observeAll()
      try serve()
      try endLife(random.weighted(scenario.ends))
      alive = !isGone
    }
    devices.heal()
    policy.rest()
    if alive { try finish() }
    report.faults = devices.struck
    report.traceHash = trace.hash
    return report
  }

  /// The faults have stopped: everything must work, and rest.
  private func finish() throws(Failure) {
    trace.record(.act, "devices are good from now on")
    for round in 0..<2 {
      guard try openThroughCrashes() else { return }
      try observeAll()
      if round == 0 { try serve() }
      try shutDown()
      if isGone { return }
      try check()
    }
  }

  private func serve() throws(Failure) {
    let turns = random.within(1...scenario.turns)
    for _ in 0..<turns {
      try turn(issuing: true)
      if random.chance(2) { try settle("a pause", until: { self.clients.openCount == 0 }) }
      strikeRot()
    }
  }

  private func endLife(_ end: Int) throws(Failure) {
    switch end {
    case 0:
      try shutDown()
      if isGone { return }
      try check()
      if random.chance(300) { losePowerWhileOff() }
    case 1: try crash(.kill)
    default: try crash(.power)
    }
    if end > 0 && random.chance(300) { try check(afterCrash: true) }
  }

  // MARK: Opening

  /// Opens the volume, through planned crashes. False when it was refused and may be.
  func openThroughCrashes() throws(Failure) -> Bool {
    var depth = 0
    var refusals = 0
    while true {
      if depth < 3 && random.chance(scenario.recoveryCrashChance) {
        devices.crashAfter = random.magnitude(400) - 1
      }
      let error = open()
      try raiseViolation()
      if devices.hasCrashed {
        drop()
        depth += 1
        report.recoveryCrashes += 1
        carryOut(random.chance(500) ? .kill : .power)
        continue
      }
      devices.crashAfter = nil
      guard let error else { break }
      trace.record(.act, "open refused")
      report.refusals += 1
      refusals += 1
      if devices.faults.isEmpty && scenario.faults.onlyErrors {
        throw Failure("The pool does not open: \(error.message)")
      }
      // Errors that come and go must not keep the pool closed for ever.
      if scenario.faults.onlyErrors {
        if refusals > 20 { devices.heal() }
        continue
      }
      if refusals > 3 { return false }
    }
    report.recoveries += 1
    trace.record(.act, "opened", UInt64(devices.waited))
    return true
  }

  private func open() -> OpenError? {
    // What a life leaves in the arena, the next must not find.
    madvise(memory + clientBytes, memoryBytes - clientBytes, Int32(MADV_DONTNEED))
    var arena = Arena(base: memory + clientBytes, capacity: memoryBytes - clientBytes)
    devices.beginLife(log)
    do {
      adopt(
        try Volume.open(
          devices: devices, staging: staging, arena: &arena, options: options, policy: policy,
          now: now))
      return nil
    } catch {
      return error
    }
  }

  private func adopt(_ volume: consuming Volume) {
    engine.initialize(to: volume)
    isOpen = true
  }

  func drop() {
    if isOpen { engine.deinitialize(count: 1) }
    isOpen = false
  }

  // MARK: Ends

  /// Shuts down in order, requests in flight or not.
  func shutDown() throws(Failure) {
    trace.record(.act, "shutdown begins", UInt64(clients.openCount))
    engine.pointee.beginShutdown()
    if random.chance(scenario.shutdownCrashChance) {
      // A shutdown, too, can be cut short.
      for _ in 0..<random.below(30) { try turn(issuing: false) }
      if random.chance(300) && !devices.faults.isEmpty || random.chance(200) {
        return try crashAndReopen()
      }
    }
    try settle("a shutdown", until: { self.engine.pointee.isShutDown })
    if clients.openCount > 0 {
      throw Failure("\(clients.openCount) requests have no answer after the shutdown.")
    }
    try devices.requireIdle()
    countStatistics()
    drop()
    staging.endProcess()
    reference.endShutdown()
    trace.record(.act, "shut down")
  }

  private func crashAndReopen() throws(Failure) {
    try crash(random.chance(500) ? .kill : .power)
    if try !openThroughCrashes() {
      // A sector that the log needs and that cannot be read is a reason to refuse.
      devices.heal()
      guard try openThroughCrashes() else {
        isGone = true
        return
      }
    }
    try observeAll()
    try shutDown()
  }

  private func losePowerWhileOff() {
    trace.record(.act, "power loss while shut down")
    devices.crash(.power)
    staging.losePower()
    staging.endProcess()
    options.bootID = Identity(high: random.next(), low: random.next())
  }

  /// A crash somewhere in a turn: before it, before its orders or its replies were taken.
  private func crash(_ crash: Crash) throws(Failure) {
    let stage = random.below(4)
    if stage > 0 {
      advanceClock()
      issue()
      deliver()
      engine.pointee.step(now: now)
      if stage > 1 {
        var orders = stage == 2 ? random.below(8) : Int.max
        while orders > 0, let operation = engine.pointee.nextOperation() {
          devices.submit(operation)
          orders -= 1
        }
      }
      if stage == 3 && random.chance(500) { try takeReplies(most: random.below(4)) }
    }
    countStatistics()
    carryOut(crash)
    drop()
    staging.endProcess()
  }

  func carryOut(_ crash: Crash) {
    report.crashes += 1
    trace.record(
      .act, crash == .kill ? "kill" : "power loss", UInt64(clients.openCount),
      UInt64(devices.inFlightCount))
    devices.crash(crash)
    if crash == .power {
      staging.losePower()
      options.bootID = Identity(high: random.next(), low: random.next())
      if random.chance(scenario.faults.superblockRot) { rotSuperblock() }
      if random.chance(scenario.faults.logRot) { rotLog() }
    }
    reference.crash(crash)
    clients.forgetAll()
    toObserve.removeAll()
  }

  private func countStatistics() {
    report.checkpoints += Int(engine.pointee.statistics().checkpoints)
  }

  // MARK: Counters for the other parts

  func count(_ field: WritableKeyPath<Report, Int>, _ n: Int = 1) { report[keyPath: field] += n }
}
