import Base
import DeviceIO
import Glibc

/// What goes wrong with devices: by the seed's plan, or by a story's hand.
extension SimulatedDevices {
  func strikes(_ perMille: Int) -> Bool {
    guard perMille > 0, !isCalm, struck < faults.budget, random.chance(perMille) else {
      return false
    }
    struck += 1
    return true
  }

  func sectors(_ operation: DeviceOperation) -> Range<Int> {
    let sector = devices[operation.device.index].sector
    let first = Int(operation.offset) / sector
    return first..<(first + Int(operation.length) / sector)
  }

  func readFault(_ operation: DeviceOperation) -> Int32? {
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
  func cure(_ operation: DeviceOperation) {
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

  func writeFault(
    _ operation: DeviceOperation, _ memory: UnsafeMutableRawPointer
  ) -> Int32? {
    let number = operation.device.index
    let device = devices[number]
    let length = Int(operation.length)
    switch fate(operation) {
    case nil, .forgetful: break
    case .lost: return Int32(truncatingIfNeeded: length)
    case .failed: return -EIO
    case .doneButFailed:
      device.writeThrough(memory, offset: Int(operation.offset), length: length)
      return -EIO
    }
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

  func writePartly(
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
}
