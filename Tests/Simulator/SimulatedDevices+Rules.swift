import Base
import DeviceIO
import DiskFormat

/// What the engine owes its devices.
extension SimulatedDevices {
  /// Looks at S7.
  func validate(_ operation: DeviceOperation, isWaiting: Bool = false) -> Bool {
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

  /// Looks at S10. Footers may come before the records that they tell of.
  func noteLogWrite(_ operation: DeviceOperation) -> Bool {
    guard let log, operation.kind == .write || operation.kind == .writeThrough,
      operation.device.index == 0, operation.offset >= log.offset,
      operation.offset < log.offset + log.areaSize
    else { return true }
    let inSegment = log.segmentSize / log.logBlock
    let first = Int(operation.offset - log.offset) / log.logBlock
    let footer = inSegment - log.footerArea / log.logBlock
    if first % inSegment >= footer { return true }
    if first % inSegment == 0 {
      for i in first..<first + inSegment { submitted[i] = false }
    }
    for i in first..<first + (Int(operation.length) + log.logBlock - 1) / log.logBlock {
      if submitted[i] {
        violation = Failure(
          "S10: \(operation.length) bytes at \(operation.offset) of the log are written again.")
        return false
      }
      submitted[i] = true
    }
    return true
  }
}
