import Base
import DeviceIO
import Glibc

/// The pool's devices: takes the engine's orders, performs each exactly once, in any order, with
/// the faults that the plan allows.
///
/// The same devices serve a waiting caller (format, recovery, check) at once; there a crash can
/// be planned at the n-th operation: from then on nothing has any effect and every operation
/// answers EIO, until the world carries the crash out with `crash`.
///
/// - S7: an order is in range, aligned, and its memory belongs to the arena or to a ring.
/// - S8: memory of a write does not change while the write is in flight.
final class SimulatedDevices: WaitingDevices {
  let devices: [SimulatedDevice]
  var faults = FaultPlan()
  /// Faults struck so far.
  private(set) var struck = 0
  /// Waiting operations until the planned crash; nil for none planned.
  var crashAfter: Int?
  /// The planned crash has come.
  private(set) var hasCrashed = false
  /// Waiting operations performed.
  private(set) var waited = 0
  /// A rule of the seam that the engine broke.
  private(set) var violation: Failure?
  var order = CompletionOrder.random
  /// No fault strikes, and none that struck before is felt.
  var isCalm = false
  /// What each power loss takes; nil: drawn.
  var forcedLoss: SimulatedDevice.Loss?
  /// Says whether memory may be transferred to and from.
  var isTransferable: (UnsafeRawPointer, Int) -> Bool = { _, _ in true }

  enum CompletionOrder: Int, CaseIterable, Sendable {
    case random, oldest, newest, writesLast, flushesFirst
  }

  struct InFlight {
    var operation: DeviceOperation
    /// A flush: what it covers. A write: the checksum of its memory.
    var mark: UInt32
  }
  private(set) var inFlight: [InFlight] = []
  var random: Random
  let trace: Trace
  private var latent: [(device: Int, sectors: Range<Int>)] = []

  init(_ geometries: [DeviceGeometry], random: Random, trace: Trace) {
    devices = geometries.map { SimulatedDevice($0) }
    self.random = random
    self.trace = trace
  }

  // MARK: The queued form

  var inFlightCount: Int { inFlight.count }

  func submit(_ operation: DeviceOperation) {
    trace.record(
      .order, label(operation.kind), operation.token, UInt64(operation.device.rawValue),
      operation.offset, UInt64(operation.length))
    guard validate(operation) else { return }
    // Until it completes, a read's memory may hold anything.
    if operation.kind == .read && random.chance(50), let memory = operation.memory {
      memory.initializeMemory(as: UInt8.self, repeating: 0xee, count: Int(operation.length))
    }
    inFlight.append(InFlight(operation: operation, mark: mark(operation)))
  }

  /// Ends one operation in flight, chosen by seed and order; nil when there is none.
  func deliver() -> DeviceCompletion? {
    guard !inFlight.isEmpty else { return nil }
    let entry = inFlight.remove(at: choose())
    let result = perform(entry)
    let operation = entry.operation
    trace.record(
      .complete, label(operation.kind), operation.token, UInt64(operation.device.rawValue),
      operation.offset, UInt64(bitPattern: Int64(result)))
    return DeviceCompletion(token: operation.token, result: result)
  }

  private func choose() -> Int {
    if random.chance(100) { return random.below(inFlight.count) }
    switch order {
    case .random: return random.below(inFlight.count)
    case .oldest: return 0
    case .newest: return inFlight.count - 1
    case .writesLast:
      return inFlight.firstIndex { $0.operation.kind != .write } ?? random.below(inFlight.count)
    case .flushesFirst:
      return inFlight.firstIndex { $0.operation.kind == .flush } ?? random.below(inFlight.count)
    }
  }

  // MARK: The waiting form

  var count: Int { devices.count }

  func geometry(of device: DeviceIndex) -> DeviceGeometry {
    devices[device.index].geometry
  }

  func perform(
    _ operations: UnsafeBufferPointer<DeviceOperation>, results: UnsafeMutableBufferPointer<Int32>
  ) {
    var left = Array(operations.indices)
    // What is performed at once sees no flush finish before a write it was submitted after.
    let entries = operations.map {
      InFlight(operation: $0, mark: validate($0, isWaiting: true) ? mark($0) : 0)
    }
    while !left.isEmpty {
      let i = left.remove(at: random.below(left.count))
      waited += 1
      if let planned = crashAfter {
        if planned == 0 {
          hasCrashed = true
          crashAfter = nil
          trace.record(.act, "crash point in a waiting operation", UInt64(waited))
        } else {
          crashAfter = planned - 1
        }
      }
      if hasCrashed {
        if crashedBatch { inFlight.append(kept(entries[i])) }
        results[i] = -EIO
        continue
      }
      results[i] = violation == nil ? perform(entries[i]) : -EINVAL
      let operation = operations[i]
      trace.record(
        .complete, label(operation.kind), operation.token, UInt64(operation.device.rawValue),
        operation.offset, UInt64(bitPattern: Int64(results[i])))
    }
    if hasCrashed { crashedBatch = false }
  }

  /// Operations of the batch in which the crash came are in flight; later ones never were.
  private var crashedBatch = true

  // MARK: One operation

  private func mark(_ operation: DeviceOperation) -> UInt32 {
    switch operation.kind {
    case .flush: return devices[operation.device.index].order
    case .write, .writeThrough:
      guard let memory = operation.memory else { return 0 }
      return Checksum.crc32c(memory, Int(operation.length))
    case .read, .discard: return 0
    }
  }

  /// A write that may still land after the caller is gone, over a copy of its memory.
  private func kept(_ entry: InFlight) -> InFlight {
    var entry = entry
    guard let memory = entry.operation.memory else { return entry }
    // SAFETY: as small as rare; it lives as long as the process.
    let copy = UnsafeMutableRawPointer.allocate(
      byteCount: Int(entry.operation.length), alignment: 4096)
    copy.copyMemory(from: memory, byteCount: Int(entry.operation.length))
    entry.operation.memory = copy
    return entry
  }

  private func validate(_ operation: DeviceOperation, isWaiting: Bool = false) -> Bool {
    func broken(_ what: String) -> Bool {
      violation = Failure(
        "D4/S7: \(what): \(operation.kind) of \(operation.length) bytes at \(operation.offset) "
          + "of device \(operation.device.rawValue).")
      return false
    }
    guard operation.device.index < devices.count else { return broken("no such device") }
    let geometry = devices[operation.device.index].geometry
    if operation.kind == .flush { return true }
    let unit = UInt64(geometry.logicalBlock)
    let length = UInt64(operation.length)
    if length == 0 || length % unit != 0 || operation.offset % unit != 0 {
      return broken("an order that is not aligned to \(unit)")
    }
    if operation.offset + length > geometry.size { return broken("an order past the end") }
    if operation.kind == .discard { return true }
    guard let memory = operation.memory else { return broken("an order without memory") }
    if UInt(bitPattern: memory) % UInt(unit) != 0 { return broken("memory that is not aligned") }
    if !isWaiting, !isTransferable(memory, Int(length)) {
      return broken("memory outside of arena and rings")
    }
    return true
  }

  /// Performs an operation with whatever fault strikes, and returns its result.
  private func perform(_ entry: InFlight) -> Int32 {
    let operation = entry.operation
    let device = devices[operation.device.index]
    let offset = Int(operation.offset)
    let length = Int(operation.length)
    switch operation.kind {
    case .read:
      if let result = readFault(operation) { return result }
      guard let memory = operation.memory else { return -EINVAL }
      memcpy(memory, device.current + offset, length)
    case .write, .writeThrough:
      guard let memory = operation.memory else { return -EINVAL }
      if Checksum.crc32c(memory, length) != entry.mark {
        violation = Failure(
          "S8: the memory of a write of \(length) bytes at \(offset) of device "
            + "\(operation.device.rawValue) changed while it was in flight.")
      }
      if let result = writeFault(operation, memory) { return result }
      cure(operation)
      if operation.kind == .write {
        device.write(memory, offset: offset, length: length)
      } else {
        device.writeThrough(memory, offset: offset, length: length)
      }
    case .flush:
      if strikes(faults.flushErrors) {
        trace.record(.fault, "flush error", UInt64(operation.device.rawValue))
        device.failFlush(covered: entry.mark, random: &random)
        return -EIO
      }
      device.flush(covered: entry.mark)
      return 0
    case .discard:
      discard(operation)
    }
    return Int32(truncatingIfNeeded: length)
  }

  /// A discarded range may keep its bytes, turn to zeros, or to anything.
  private func discard(_ operation: DeviceOperation) {
    let mode = random.below(3)
    if mode == 0 { return }
    var left = Int(operation.length)
    var offset = Int(operation.offset)
    let piece = UnsafeMutableRawPointer.allocate(byteCount: 65536, alignment: 64)
    defer { piece.deallocate() }
    piece.initializeMemory(as: UInt8.self, repeating: mode == 1 ? 0 : 0xd5, count: 65536)
    while left > 0 {
      let length = min(left, 65536)
      devices[operation.device.index].write(piece, offset: offset, length: length)
      offset += length
      left -= length
    }
  }

  // MARK: Faults

  private func strikes(_ perMille: Int) -> Bool {
    guard perMille > 0, !isCalm, struck < faults.budget, random.chance(perMille) else {
      return false
    }
    struck += 1
    return true
  }

  private func sectors(_ operation: DeviceOperation) -> Range<Int> {
    let sector = devices[operation.device.index].sector
    let first = Int(operation.offset) / sector
    return first..<(first + Int(operation.length) / sector)
  }

  private func readFault(_ operation: DeviceOperation) -> Int32? {
    let device = operation.device.index
    let touched = sectors(operation)
    if !isCalm, latent.contains(where: { $0.device == device && $0.sectors.overlaps(touched) }) {
      return -EIO
    }
    if strikes(faults.latentErrors) {
      let first = touched.lowerBound + random.below(touched.count)
      let end = min(touched.upperBound, first + random.within(1...8))
      latent.append((device, first..<end))
      trace.record(
        .fault, "latent error", UInt64(device), UInt64(first * devices[device].sector),
        UInt64((end - first) * devices[device].sector))
      return -EIO
    }
    guard strikes(faults.readErrors) else { return nil }
    trace.record(
      .fault, "read error", UInt64(device), operation.offset, UInt64(operation.length))
    // A failed read leaves anything in memory.
    if random.chance(500), let memory = operation.memory {
      memory.initializeMemory(as: UInt8.self, repeating: 0xee, count: Int(operation.length))
    }
    return -EIO
  }

  /// A write cures its sectors.
  private func cure(_ operation: DeviceOperation) {
    if latent.isEmpty { return }
    let touched = sectors(operation)
    var kept: [(device: Int, sectors: Range<Int>)] = []
    for bad in latent {
      guard bad.device == operation.device.index, bad.sectors.overlaps(touched) else {
        kept.append(bad)
        continue
      }
      if bad.sectors.lowerBound < touched.lowerBound {
        kept.append((bad.device, bad.sectors.lowerBound..<touched.lowerBound))
      }
      if bad.sectors.upperBound > touched.upperBound {
        kept.append((bad.device, touched.upperBound..<bad.sectors.upperBound))
      }
    }
    latent = kept
  }

  private func writeFault(
    _ operation: DeviceOperation, _ memory: UnsafeMutableRawPointer
  ) -> Int32? {
    let number = operation.device.index
    let device = devices[number]
    let length = Int(operation.length)
    if strikes(faults.writeErrors) {
      trace.record(.fault, "write error", UInt64(number), operation.offset, UInt64(length))
      switch random.below(3) {
      case 0: break
      case 1: device.write(memory, offset: Int(operation.offset), length: length)
      default: writePartly(operation, memory, perMille: 500)
      }
      return -EIO
    }
    if strikes(faults.lostWrites) {
      trace.record(.fault, "lost write", UInt64(number), operation.offset, UInt64(length))
      return Int32(truncatingIfNeeded: length)
    }
    guard strikes(faults.misdirectedWrites) else { return nil }
    let places = (Int(device.geometry.size) - length) / device.sector + 1
    let place = random.below(places) * device.sector
    trace.record(
      .fault, "misdirected write", UInt64(number), operation.offset, UInt64(length),
      UInt64(place))
    device.write(memory, offset: place, length: length)
    return Int32(truncatingIfNeeded: length)
  }

  private func writePartly(
    _ operation: DeviceOperation, _ memory: UnsafeMutableRawPointer, perMille: Int
  ) {
    let device = devices[operation.device.index]
    var at = 0
    while at < Int(operation.length) {
      if random.chance(perMille) {
        device.write(memory + at, offset: Int(operation.offset) + at, length: device.sector)
      }
      at += device.sector
    }
  }

  /// Rot strikes a sector of a device, for ever.
  func rot(device: Int, sector: Int) {
    struck += 1
    trace.record(.fault, "rot", UInt64(device), UInt64(sector * devices[device].sector))
    devices[device].rot(sector: sector, random: &random)
  }

  /// The devices are good again: latent errors are healed and no fault strikes any more.
  func heal() {
    faults = FaultPlan()
    latent.removeAll()
  }

  // MARK: Crashes

  /// The process, or the machine, dies: what is in flight lands, wholly or partly or not at all;
  /// a power loss then takes what was not durable.
  func crash(_ crash: Crash) {
    let mode = forcedLoss.map { $0 == .all ? 0 : $0 == .none ? 2 : 3 } ?? random.below(4)
    while !inFlight.isEmpty {
      let entry = inFlight.remove(at: random.below(inFlight.count))
      let operation = entry.operation
      let device = devices[operation.device.index]
      guard mode > 0, mode > 1 || random.chance(500) else { continue }
      switch operation.kind {
      case .read, .discard: break
      case .flush: if random.chance(500) { device.flush(covered: entry.mark) }
      case .write, .writeThrough:
        guard let memory = operation.memory else { continue }
        if mode == 3 && random.chance(500) {
          writePartly(operation, memory, perMille: random.pick([100, 500, 900]))
        } else {
          device.write(memory, offset: Int(operation.offset), length: Int(operation.length))
        }
      }
    }
    if crash == .power {
      let losses = SimulatedDevice.Loss.allCases
      let drawn = random.chance(600) ? losses[random.below(losses.count)] : nil
      let together = forcedLoss ?? drawn
      for device in devices {
        device.losePower(together ?? losses[random.below(losses.count)], random: &random)
      }
    }
    crashAfter = nil
    hasCrashed = false
    crashedBatch = true
  }

  /// The engine let go of its devices with nothing in flight.
  func requireIdle() throws(Failure) {
    if !inFlight.isEmpty {
      throw Failure("\(inFlight.count) device operations are in flight after the shutdown.")
    }
  }

  private func label(_ kind: OperationKind) -> StaticString {
    switch kind {
    case .read: "read"
    case .write: "write"
    case .writeThrough: "writeThrough"
    case .flush: "flush"
    case .discard: "discard"
    }
  }
}
