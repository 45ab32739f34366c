import Base
import DeviceIO
import DiskFormat
import VolumeEngine

/// The pool between lives: format, check, rot.
extension World {
  static func format(
    _ scenario: Scenario, layout: CellLayout, pool: Identity, devices: SimulatedDevices
  ) throws(Failure) -> (memory: MemoryPlan, log: LogGeometry) {
    let size = scenario.isFormattedSmall ? layout.volumeSize / 2 & ~4095 : layout.volumeSize
    let plan = FormatPlan(
      poolID: pool, volumeName: "simulated", volumeSize: max(4096, size),
      devices: scenario.devices.enumerated().map { i, d in
        FormatDevice(
          identity: Identity(high: scenario.seed, low: UInt64(i + 1)), tier: TierIndex(d.tier),
          size: d.geometry.size)
      },
      tierNames: (0..<scenario.tiers).map { "tier\($0)" },
      logSize: UInt64(scenario.segmentSize * scenario.logSegments),
      segmentSize: scenario.segmentSize)
    do {
      try PoolFormat.format(plan, on: devices, progress: { _, _ in })
    } catch {
      throw Failure("The pool is not formatted: \(error.message)")
    }
    if let violation = devices.violation { throw violation }
    do {
      let superblock = try Superblock.decode(
        devices.devices[0].current + Int(Layout.superblockOffsets.a), pool: pool)
      let memory = MemoryPlan(
        ringBytes: scenario.ringBytes, clientBytes: 8 << 20, heatBytes: 0,
        unitBytes: (64 << 10) << Int(scenario.seed % 3 * 2), cacheBytes: scenario.cacheBytes,
        superblock: superblock)
      return (memory, superblock.log)
    } catch {
      throw Failure("The format left no superblock: \(error)")
    }
  }

  /// The engine's own check over the pool of a volume that is not open.
  func check(afterCrash: Bool = false) throws(Failure) {
    count(\.checks)
    devices.isCalm = true
    var report = PoolCheck.run(on: devices, verifyData: true)
    devices.isCalm = false
    try raiseViolation()
    // The machine may have died in the middle of a superblock; the next start makes both equal.
    if afterCrash { report.problems.removeAll { $0.hasPrefix("superblock copy") } }
    // Where data was damaged, the check may find it; it must only live through it.
    guard scenario.faults.onlyErrors, !report.isClean else { return }
    throw Failure(
      "The check finds the pool damaged: " + report.problems.prefix(8).joined(separator: "; ")
        + (report.problems.count > 8 ? "; and \(report.problems.count - 8) more" : ""))
  }

  // MARK: Rot

  /// The part of a device behind label, superblock and log.
  private func data(of device: Int) -> Range<Int> {
    let sector = devices.devices[device].sector
    let log = device == 0 ? scenario.segmentSize * scenario.logSegments : 0
    let start = (Int(Layout.systemArea) + log) / sector
    return start..<Int(scenario.devices[device].geometry.size) / sector
  }

  /// Perhaps a sector of data or table rots now.
  func strikeRot() {
    guard devices.struck < devices.faults.budget, random.chance(devices.faults.rot) else { return }
    let device = random.below(devices.count)
    let sectors = data(of: device)
    devices.rot(device: device, sector: sectors.lowerBound + random.below(sectors.count))
  }

  /// One copy of the superblock rots.
  func rotSuperblock() {
    guard devices.struck < devices.faults.budget else { return }
    let copy = random.chance(500) ? Layout.superblockOffsets.a : Layout.superblockOffsets.b
    devices.rot(device: 0, sector: Int(copy) / devices.devices[0].sector)
  }

  /// A sector of the log rots.
  func rotLog() {
    guard devices.struck < devices.faults.budget else { return }
    let sector = devices.devices[0].sector
    let first = Int(Layout.systemArea) / sector
    let count = scenario.segmentSize * scenario.logSegments / sector
    devices.rot(device: 0, sector: first + random.below(count))
  }
}
