import Base
import DeviceIO

/// What one seed draws: sizes, weights, faults and habits. Most seeds leave most things out
/// (swarm testing: Groce and others, "Swarm Testing", ISSTA 2012).
package struct Scenario: Sendable {
  struct Device: Sendable {
    var tier: Int
    var geometry: DeviceGeometry
  }

  let seed: UInt64
  var segmentSize = 0
  var logSegments = 0
  var blocks = 0
  var cellEdges: [Int] = [0]
  /// Of so many extents of the volume one is used.
  var spread = 1
  var devices: [Device] = []
  var tiers = 1
  /// The pool has fewer slots than the volume has extents.
  var isTight = false
  var hasStaging = true
  var placedWrites = false
  /// The pool is formatted for half of the volume; it grows when it is opened.
  var isFormattedSmall = false
  var growsAtOpening = true
  /// Chances per thousand of a transfer of whole extents, where writes are placed.
  var extentChance = 0
  /// The staging ring, and the cache of table pages.
  var ringBytes = 0
  var cacheBytes = 0

  var clients = 1
  var depth = 1
  /// Weights of read, write, flush, trim, write zeroes, cache, block status.
  var weights: [Int] = []
  var durableChance = 0
  var keepChance = 0
  var fastChance = 0
  var maxTransfer = 0
  /// The most blocks of a trim, a zeroing or a status request.
  var maxRange = 0
  /// Blocks at the volume's start that take most requests; chances per thousand of them.
  var hotBlocks = 1
  var hotChance = 0
  var wholeBlockChance = 0

  var order = SimulatedDevices.CompletionOrder.random
  /// Chances per thousand, each turn, of delivering one more completion.
  var deliverChance = 0
  /// Chances per thousand, each turn, of one more request.
  var issueChance = 0
  /// Chances per thousand, each turn, of jumping to the engine's deadline or far beyond.
  var jumpChance = 0
  /// Chances per thousand, each turn, of sealing the log's open generation now.
  var drainChance = 0
  /// The longest ordinary time between two turns, in nanoseconds.
  var turnTime = 0

  var lives = 1
  var turns = 0
  /// Weights of a life's end: clean shutdown, kill, power loss.
  var ends: [Int] = []
  /// Chances per thousand that a recovery is interrupted, again and again up to three deep.
  var recoveryCrashChance = 0
  /// Chances per thousand that a shutdown is cut short.
  var shutdownCrashChance = 150
  var faults = FaultPlan()

  var moves = 0
  var restlessness = 0
  var moveRate: UInt64 = 0

  package init(seed: UInt64) {
    self.seed = seed
    var random = Random(seed: seed)
    drawPool(&random)
    drawClients(&random)
    drawTime(&random)
    drawFaults(&random)
  }

  private mutating func drawPool(_ random: inout Random) {
    segmentSize = random.pick([64 << 10, 128 << 10, 256 << 10, 512 << 10])
    logSegments = random.within(8...24)
    blocks = random.pick([64, 64, 256, 256, 1024, 1024, 2048, 4096]) + 16 * random.below(4)
    if random.chance(300) { blocks += random.below(16) }
    let count = random.pick([1, 1, 2, 2, 3, 4])
    tiers = random.within(1...min(3, count))
    isTight = random.chance(120)
    hasStaging = !random.chance(150)
    placedWrites = random.chance(400)
    isFormattedSmall = seed % 8 == 0
    ringBytes = random.pick([64 << 10, 128 << 10, 256 << 10, 1 << 20])
    cacheBytes = random.pick([256 << 10, 512 << 10, 2 << 20])
    spread = random.pick([1, 1, 1, 1, 3, 41, 350])
    // Slots that data may use: more than the volume has, but in tight pools.
    let extents = (blocks + 15) / 16
    let chunks = spread == 1 ? 0 : spread == 350 ? extents : extents / 8 + 1
    let slots = isTight ? extents / 2 + chunks + 8 : extents * 3 / 2 + 2 * chunks + 64
    let big = random.chance(250)
    for i in 0..<count {
      let share = i == 0 ? slots - slots / count * (count - 1) : slots / count
      let log = i == 0 ? segmentSize * logSegments : 0
      let size = (2 << 20) + (share + 8) << 16 + log
      let logical = big ? 4096 : 512
      let geometry = DeviceGeometry(
        size: UInt64(size), logicalBlock: logical, physicalBlock: random.pick([logical, 4096]),
        isRotational: i > 0 && random.chance(400), supportsDiscard: random.chance(500))
      devices.append(Device(tier: min(i, tiers - 1), geometry: geometry))
    }
    drawCells(&random)
  }

  private mutating func drawCells(_ random: inout Random) {
    var edges: Set<Int> = [0]
    switch random.below(4) {
    case 0, 1: break
    case 2: for _ in 0..<random.within(1...7) { edges.insert(512 * random.below(8)) }
    default:
      for _ in 0..<random.within(1...6) {
        edges.insert(random.below(4096))
        if random.chance(300) { edges.insert(512 * random.below(8)) }
        if random.chance(200) { edges.insert(4095) }
        if random.chance(200) { edges.insert(1) }
      }
    }
    cellEdges = edges.sorted()
  }

  private mutating func drawClients(_ random: inout Random) {
    clients = random.pick([1, 1, 2, 4])
    depth = random.pick([1, 1, 2, 4, 8, 16])
    weights = [
      random.pick([0, 5, 20, 40]), random.pick([10, 20, 40, 80]), random.pick([0, 0, 1, 5, 20]),
      random.pick([0, 0, 1, 5, 20]), random.pick([0, 0, 1, 5, 10]), random.pick([0, 0, 1]),
      random.pick([0, 0, 1, 3]),
    ]
    durableChance = random.pick([0, 0, 0, 50, 300, 1000])
    keepChance = random.pick([0, 300, 1000])
    fastChance = random.pick([0, 0, 200])
    maxTransfer = random.pick([4096, 4096, 16384, 65536, 65536, 262_144])
    if placedWrites, random.chance(700) { maxTransfer = random.pick([65536, 131_072, 262_144]) }
    extentChance = random.pick([0, 100, 300, 700])
    maxRange = random.pick([1, 16, 64, 256, 256, blocks])
    hotBlocks = max(1, random.pick([4, 16, 64, blocks / 8, blocks]))
    hotChance = random.pick([0, 500, 800, 950])
    wholeBlockChance = random.pick([0, 500, 900, 1000])
  }

  private mutating func drawTime(_ random: inout Random) {
    let orders = SimulatedDevices.CompletionOrder.allCases
    order = random.chance(400) ? .random : orders[random.below(orders.count)]
    deliverChance = random.pick([300, 500, 800, 900, 950])
    issueChance = random.pick([100, 300, 500, 800, 900])
    jumpChance = random.pick([0, 1, 10, 50])
    turnTime = random.pick([1000, 20_000, 500_000, 5_000_000])
    drainChance = random.pick([0, 0, 5, 50])
    lives = random.pick([1, 2, 3, 5, 8])
    turns = random.pick([50, 200, 500, 1000, 2000]) / (lives > 3 ? 2 : 1)
    ends = [random.pick([0, 1, 3]), random.pick([0, 1, 3]), random.pick([1, 2, 3])]
    recoveryCrashChance = random.pick([0, 0, 300, 800])
    moves = random.pick([0, 0, 10, 200, 900])
    restlessness = random.pick([0, 50, 500, 1000])
    moveRate = random.pick([1 << 20, 16 << 20, 1 << 30])
  }

  private mutating func drawFaults(_ random: inout Random) {
    let kind = random.below(100)
    if kind < 70 { return }
    faults.budget = random.pick([1, 2, 5, 20, 100])
    if kind < 88 {
      faults.readErrors = random.pick([0, 2, 20])
      faults.writeErrors = random.pick([0, 2, 20])
      faults.flushErrors = random.pick([0, 5, 50])
      faults.latentErrors = random.pick([0, 0, 0, 5])
      if placedWrites, random.chance(500) {
        // Failed flushes, and little else: what was placed has to be written again.
        faults.latentErrors = 0
        faults.flushErrors = random.pick([20, 100])
        faults.budget = max(20, faults.budget)
      }
    } else if kind < 94 {
      faults.rot = random.pick([1, 5, 20])
      faults.superblockRot = random.pick([0, 200, 500])
    } else {
      faults.lostWrites = random.pick([0, 2, 10])
      faults.misdirectedWrites = random.pick([0, 0, 2, 10])
      faults.logRot = random.pick([0, 300])
      faults.rot = random.pick([0, 2, 10])
      faults.readErrors = random.pick([0, 5])
    }
  }

  /// The draw in a few lines, for reports.
  package var summary: String {
    let pool = devices.enumerated().map { i, d in
      "device \(i): tier \(d.tier), \(d.geometry.size >> 10) KiB, sectors "
        + "\(d.geometry.logicalBlock)/\(d.geometry.physicalBlock)"
        + (d.geometry.isRotational ? ", rotating" : "")
    }
    return """
      seed \(seed): \(blocks) blocks (1 extent of \(spread))\
      \(isTight ? " (tight pool)" : ""), cells \(cellEdges), log \
      \(logSegments) × \(segmentSize >> 10) KiB, ring \(ringBytes >> 10) KiB, \
      cache \(cacheBytes >> 10) KiB\
      \(hasStaging ? "" : ", no staging"), placed writes \(placedWrites) \(extentChance) ‰
      \(pool.joined(separator: "; "))
      \(clients) clients × \(depth), weights \(weights), to \(maxTransfer) bytes, \
      ranges to \(maxRange) blocks, FUA \(durableChance) ‰, hot \(hotBlocks) blocks \
      \(hotChance) ‰, whole blocks \(wholeBlockChance) ‰
      order \(order), deliver \(deliverChance) ‰, issue \(issueChance) ‰, jump \(jumpChance) ‰, \
      drain \(drainChance) ‰, turn \(turnTime) ns, \(lives) lives × \(turns) turns, \
      ends \(ends), recovery crash \(recoveryCrashChance) ‰, moves \(moves) ‰, \
      restless \(restlessness) ‰
      faults: budget \(faults.budget), read \(faults.readErrors) ‰, write \
      \(faults.writeErrors) ‰, flush \(faults.flushErrors) ‰, latent \(faults.latentErrors) ‰, \
      lost \(faults.lostWrites) ‰, misdirected \(faults.misdirectedWrites) ‰, rot \
      \(faults.rot)/\(faults.superblockRot)/\(faults.logRot) ‰
      """
  }
}
