import Base
import DeviceIO
package import VolumeEngine

/// Every short story on a few blocks: all sequences of up to three acts, each cut short by a kill
/// or a power loss after every event, with every way to lose what was not durable.
///
/// What seeds find by luck is found here by patience; and what fails here is short.
package struct Exhaustive: Sendable {
  enum Act: Int, CaseIterable {
    case write, writeTwo, writePart, writeDurable, trim, flush, idle
  }

  /// All sequences of acts, shortest first.
  package static let sequences: [[Int]] = {
    let one = Act.allCases.map { [$0.rawValue] }
    let two = one.flatMap { a in one.map { a + $0 } }
    return one + two + two.flatMap { a in one.map { a + $0 } }
  }()

  package let sequence: [Int]
  package let planted: PlantedBug?

  package init(sequence: [Int], planted: PlantedBug?) {
    self.sequence = sequence
    self.planted = planted
  }

  /// How many stories were told.
  package private(set) var stories = 0

  /// Tells all stories of this sequence.
  package mutating func run() throws(Failure) {
    try run(nil)
    for loss in SimulatedDevice.Loss.allCases { try run(loss) }
  }

  /// With one kind of end (nil: a kill), after 0, 1, 2 … events until the sequence has ended.
  private mutating func run(_ loss: SimulatedDevice.Loss?) throws(Failure) {
    var events = 0
    while true {
      stories += 1
      let world = try World(Exhaustive.scenario(events), planted: planted)
      LastWords.watch(world.trace, limit: 200)
      do throws(Failure) {
        if try world.tell(sequence, events: events, loss: loss) { return }
      } catch {
        let names = sequence.map { "\(Act(rawValue: $0)!)" }.joined(separator: ", ")
        let end = loss.map { "power loss (\($0))" } ?? "kill"
        let lines = world.trace.tail(200) + [error.message]
        throw Failure(
          (["Acts \(names); \(end) after \(events) events:"] + lines).joined(separator: "\n"))
      }
      events += 1
    }
  }

  /// One small device, nothing by chance but the torn sectors.
  static func scenario(_ events: Int) -> Scenario {
    var s = Scenario(seed: UInt64(events) &+ 1)
    s.segmentSize = 64 << 10
    s.logSegments = 8
    s.blocks = 16
    s.cellEdges = [0, 100, 512]
    s.spread = 1
    s.tiers = 1
    s.devices = [
      Scenario.Device(
        tier: 0, geometry: .init(size: 4 << 20, logicalBlock: 512, physicalBlock: 512))
    ]
    s.isTight = false
    s.hasStaging = events % 5 != 4
    s.placedWrites = false
    s.faults = FaultPlan()
    s.order = .oldest
    s.deliverChance = 0
    s.jumpChance = 0
    s.turnTime = 1000
    s.recoveryCrashChance = 0
    s.shutdownCrashChance = 0
    s.moves = 0
    s.restlessness = 0
    s.maxTransfer = 16 * 4096
    s.maxRange = 16
    s.clients = 1
    s.depth = 8
    return s
  }
}

extension World {
  /// Tells a sequence of acts up to an event, ends it, and looks at what is left; true when the
  /// sequence ended before.
  fileprivate func tell(
    _ sequence: [Int], events: Int, loss: SimulatedDevice.Loss?
  ) throws(Failure) -> Bool {
    devices.forcedLoss = loss
    guard try openThroughCrashes() else { throw Failure("The new pool does not open.") }
    try observeAll()
    var left = events
    var ended = true
    for act in sequence {
      try perform(Exhaustive.Act(rawValue: act)!, &left)
      if left < 0 {
        ended = false
        break
      }
    }
    if ended && left > 0 { return true }
    carryOut(loss == nil ? .kill : .power)
    drop()
    staging.endProcess()
    guard try openThroughCrashes() else { throw Failure("The pool does not open.") }
    try observeAll()
    carryOut(.power)
    drop()
    staging.endProcess()
    guard try openThroughCrashes() else { throw Failure("The pool does not open again.") }
    try observeAll()
    try shutDown()
    try check()
    return false
  }

  private func perform(_ act: Exhaustive.Act, _ left: inout Int) throws(Failure) {
    let n = layout.perBlock
    switch act {
    case .write: submit(clients.begin(.write, [], 0..<n, .client, reference))
    case .writeTwo: submit(clients.begin(.write, [], 0..<2 * n, .client, reference))
    case .writePart: submit(clients.begin(.write, [], n - 1..<n + 1, .client, reference))
    case .writeDurable: submit(clients.begin(.write, [.durable], n..<2 * n, .client, reference))
    case .trim: submit(clients.begin(.trim, [], 0..<4 * n, .client, reference))
    case .flush: submit(clients.begin(.flush, [], 0..<0, .client, reference))
    case .idle: now = now + Milliseconds(3000)
    }
    var quiet = 0
    while quiet < 8 {
      left -= 1
      if left < 0 { return }
      let wasBusy = clients.openCount > 0 || devices.inFlightCount > 0
      if let completion = devices.deliver() { engine.pointee.complete(completion) }
      try turn(issuing: false)
      quiet = wasBusy || devices.inFlightCount > 0 ? 0 : quiet + 1
      if quiet > 0, act == .idle, let deadline = engine.pointee.nextDeadline {
        now = max(now, deadline)
      }
    }
  }
}
