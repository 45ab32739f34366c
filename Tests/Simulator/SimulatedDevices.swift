import Base
import DeviceIO
import DiskFormat
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
/// - S10: what a life has submitted to a place of the log it does not write again, before the
///   segment gets a new header.
final class SimulatedDevices: WaitingDevices {
  let devices: [SimulatedDevice]
  var faults = FaultPlan()
  /// Faults struck so far.
  var struck = 0
  /// Waiting operations until the planned crash; nil for none planned.
  var crashAfter: Int?
  /// The planned crash has come.
  private(set) var hasCrashed = false
  /// Waiting operations performed.
  private(set) var waited = 0
  /// A rule of the seam that the engine broke.
  var violation: Failure?
  var order = CompletionOrder.random
  /// No fault strikes, and none that struck before is felt.
  var isCalm = false
  /// What each power loss takes; nil: drawn.
  var forcedLoss: SimulatedDevice.Loss?
  /// A story's hand: what becomes of a write or flush; nil: what the seed says.
  var fate: (DeviceOperation) -> Fate? = { _ in nil }
  /// A story's hand: how many bytes, from its front, a crash leaves of a write to a device at an
  /// offset and of a length, that is in flight or not durable; nil: what the seed says.
  var landing: ((_ device: Int, _ offset: Int, _ length: Int) -> Int)?

  /// The log on device 0, and which of its blocks this life has submitted.
  var log: LogGeometry?
  var submitted: [Bool] = []

  enum Fate {
    /// It completes and has no effect.
    case lost
    /// It fails and has no effect.
    case failed
    /// It fails, and is done all the same, for ever.
    case doneButFailed
    /// A flush that fails and forgets all that it covered.
    case forgetful
  }
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
  var latent: [(device: Int, sectors: Range<Int>)] = []

  init(_ geometries: [DeviceGeometry], random: Random, trace: Trace) {
    devices = geometries.map { SimulatedDevice($0) }
    self.random = random
    self.trace = trace
  }

  /// Another process begins.
  func beginLife(_ log: LogGeometry) {
    self.log = log
    submitted = Array(repeating: false, count: Int(log.areaSize) / log.logBlock)
  }

  // MARK: The queued form

  var inFlightCount: Int { inFlight.count }

  func submit(_ operation: DeviceOperation) {
    trace.record(
      .order, label(operation.kind), operation.token, UInt64(operation.device.rawValue),
      operation.offset, UInt64(operation.length))
    guard validate(operation), noteLogWrite(operation) else { return }
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
      if fate(operation) == .forgetful {
        device.forget(covered: entry.mark)
        return -EIO
      }
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

  // MARK: Crashes

  /// The process, or the machine, dies: what is in flight lands, wholly or partly or not at all;
  /// a power loss then takes what was not durable.
  func crash(_ crash: Crash) {
    let mode = forcedLoss.map { $0 == .all ? 0 : $0 == .none ? 2 : 3 } ?? random.below(4)
    while !inFlight.isEmpty {
      let entry = inFlight.remove(at: random.below(inFlight.count))
      let operation = entry.operation
      let device = devices[operation.device.index]
      if let landing {
        guard let memory = operation.memory, operation.kind != .read else { continue }
        let offset = Int(operation.offset)
        let length = landing(operation.device.index, offset, Int(operation.length))
        if length > 0 { device.write(memory, offset: offset, length: length) }
        continue
      }
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
    if crash == .power, let landing {
      for (i, device) in devices.enumerated() {
        device.losePower { landing(i, $0, $1) }
      }
    } else if crash == .power {
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
