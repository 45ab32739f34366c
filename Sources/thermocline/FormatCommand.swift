import Administration
import ArgumentParser
import Base
import Configuration
import DeviceIO
import DiskFormat
import Glibc
import RingIO
import VolumeEngine

struct FormatCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "format",
    abstract: "Make a pool of the devices that the configuration names.",
    discussion: """
      Everything on the devices is lost. A device that is mounted, in use as swap, or open \
      elsewhere is refused always; one that carries a filesystem, a partition table or a pool is \
      refused unless --force is given. On a terminal you are asked before anything is written, \
      unless --yes is given.

      Regular files that have a size in the configuration and do not exist are made, with all of \
      their space allocated (--sparse: without). The log area is written once from end to end, \
      which takes as long as the device needs for so many bytes.

      Exit status: 0 the pool is made; 2 refused or failed.
      """)

  @OptionGroup var configurationOption: ConfigurationOption

  @Flag(help: "Also use devices that carry a filesystem, a partition table or a pool.")
  var force = false

  @Flag(help: "Do not ask.")
  var yes = false

  @Flag(help: "Make files without allocating their space: quick, but they may run out of it.")
  var sparse = false

  @Flag(help: "Print what was made as JSON.")
  var json = false

  func run() throws {
    try carryOut {
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      let targets = try FormatTargets.examine(configuration)
      try checkFree(targets)
      try settle(targets)
      let made = try makeFiles(targets)
      do {
        try format(configuration, targets)
      } catch {
        // Files that exist only because of this attempt would stand in the way of the next.
        for path in made { unlink(path) }
        throw error
      }
    }
  }

  /// Refuses what somebody else has open, before anything is said about destroying it.
  private func checkFree(_ targets: FormatTargets) throws {
    let paths = targets.targets.filter { $0.makesFileOf == nil }.map(\.path)
    _ = try DeviceSet(paths: paths, access: .exclusive, patience: Milliseconds(1000))
  }

  /// Refuses, or asks about, what would be lost.
  private func settle(_ targets: FormatTargets) throws {
    let losses = targets.losses
    guard losses.isEmpty || force else {
      throw Refusal(
        lines: losses + ["Nothing was changed. To destroy it and make a pool, add --force."])
    }
    for loss in losses { Console.tell("\(loss) It will be destroyed.") }
    let devices = targets.targets.filter { $0.makesFileOf == nil }
    guard !devices.isEmpty, !yes else { return }
    let names = devices.map(\.path).joined(separator: ", ")
    guard Console.confirm("Everything on \(names) will be destroyed.") else {
      throw Refusal("Nothing was changed.")
    }
  }

  private func makeFiles(_ targets: FormatTargets) throws -> [String] {
    var made: [String] = []
    for target in targets.targets {
      guard let size = target.makesFileOf else { continue }
      var line = ProgressLine("making \(target.path)")
      do {
        try DeviceFile.make(
          path: target.path, size: size, allocation: sparse ? .sparse : .full
        ) { done, total in line.show(done, of: total) }
      } catch {
        line.finish()
        for path in made { unlink(path) }
        throw error
      }
      line.finish()
      made.append(target.path)
    }
    return made
  }

  private func format(_ configuration: PoolConfiguration, _ targets: FormatTargets) throws {
    let set = try DeviceSet(
      paths: targets.targets.map(\.path), access: .exclusive, patience: Milliseconds(1000))
    let plan = try FormatPlan.make(configuration, targets, set)
    try checkMemory(configuration, plan)
    for target in targets.targets where !target.carries.isEmpty || target.isBlockDevice {
      try DeviceContents.wipeSignatures(target.path)
    }
    let devices = try RingWaitingDevices(set)
    for note in set.notes + devices.notes { Console.tell(note) }
    var line = ProgressLine("writing the pool")
    do {
      try PoolFormat.format(plan, on: devices) { done, total in line.show(done, of: total) }
    } catch {
      line.finish()
      throw Refusal("\(error.message)")
    }
    line.finish()
    let report = FormatReport(plan, paths: targets.targets.map(\.path))
    if json {
      Console.printResult(try ReportEncoding.json(report) + [UInt8(ascii: "\n")])
    } else {
      Console.printResult(report.text)
    }
  }

  /// A pool that the memory cannot serve is better not made.
  private func checkMemory(_ configuration: PoolConfiguration, _ plan: FormatPlan) throws {
    let geometry = LogGeometry(
      offset: Layout.systemArea, segmentSize: Int(FormatPlan.segmentBytes),
      segmentCount: Int(plan.logSize / FormatPlan.segmentBytes), logBlock: Size.block)
    let superblock = Superblock(
      pool: plan.poolID, volumeName: plan.volumeName, volumeSize: plan.volumeSize,
      tierNames: plan.tierNames, log: geometry,
      devices: plan.devices.map {
        Superblock.DeviceEntry(
          identity: $0.identity, size: $0.size, tier: $0.tier, state: .inUse, bitmapRoot: .absent)
      })
    _ = try MemoryBudget.plan(configuration, superblock)
  }
}

/// The memory plan of a configuration, with the engine's refusal put in the configuration's terms.
enum MemoryBudget {
  static func plan(
    _ configuration: PoolConfiguration, _ superblock: Superblock
  ) throws -> MemoryPlan {
    do {
      return try MemoryPlan.plan(
        budget: Int(configuration.memory), superblock: superblock,
        clients: configuration.limits.clientMemory)
    } catch {
      throw ConfigurationError(mistakes: [
        configuration.mistake(
          at: "memory", expected: "enough for this pool",
          found: "\(SizeText.exact(configuration.memory)): \(error.message)")
      ])
    }
  }
}

extension FormatPlan {
  /// Segments of the log; tests of the engine use smaller ones.
  static let segmentBytes: UInt64 = 8 << 20

  /// The plan for opened devices; identities are random.
  static func make(
    _ configuration: PoolConfiguration, _ targets: FormatTargets, _ set: DeviceSet
  ) throws -> FormatPlan {
    let sizes = (0..<set.count).map { set.geometry(of: DeviceIndex($0)).size }
    let firstTier = zip(targets.targets, sizes).filter { $0.0.tier == 0 }.map(\.1).reduce(0, +)
    // The log lies on the first device alone and leaves it half, unless more is asked for.
    let byDefault = min(
      LogSettings.defaultSize(
        firstTierBytes: firstTier, memory: configuration.memory, segment: segmentBytes),
      sizes[0] / 2 / segmentBytes * segmentBytes)
    let wanted = configuration.log.size.map { $0 / segmentBytes * segmentBytes } ?? byDefault
    let room = sizes[0] - min(sizes[0], Layout.systemArea + ConfigurationLimits.minimumDevice / 2)
    guard wanted <= room, wanted >= ConfigurationLimits.minimumLog / 2 else {
      throw ConfigurationError(mistakes: [
        configuration.mistake(
          at: configuration.log.size == nil ? "tier[0].devices[0]" : "log.size",
          expected: "a first device that holds the log and some data",
          found: "\(SizeText.rounded(sizes[0])) for a log of \(SizeText.exact(wanted))")
      ])
    }
    return FormatPlan(
      poolID: .random(), volumeName: configuration.volume.name,
      volumeSize: configuration.volume.size,
      devices: zip(targets.targets, sizes).map { target, size in
        FormatDevice(identity: .random(), tier: TierIndex(target.tier), size: size)
      },
      tierNames: configuration.tiers.map(\.name), logSize: wanted)
  }
}

extension Identity {
  /// A random identity, marked as such (RFC 9562, version 4).
  static func random() -> Identity {
    let high = UInt64.random(in: 0 ... .max) & ~0xf000 | 0x4000
    let low = UInt64.random(in: 0 ... .max) & ~(3 << 62) | 2 << 62
    return Identity(high: high, low: low)
  }
}

/// What `format` made.
private struct FormatReport: Encodable {
  struct Device: Encodable {
    var path: String
    var identity: String
    var tier: String
    var sizeBytes: UInt64
  }

  var pool: String
  var volumeName: String
  var volumeSizeBytes: UInt64
  var logSizeBytes: UInt64
  var devices: [Device]

  init(_ plan: FormatPlan, paths: [String]) {
    pool = "\(plan.poolID)"
    volumeName = plan.volumeName
    volumeSizeBytes = plan.volumeSize
    logSizeBytes = plan.logSize
    devices = zip(plan.devices, paths).map { device, path in
      Device(
        path: path, identity: "\(device.identity)", tier: plan.tierNames[device.tier.index],
        sizeBytes: device.size)
    }
  }

  var text: String {
    let head = "pool \(pool): volume \(volumeName) of \(SizeText.exact(volumeSizeBytes)), "
      + "log of \(SizeText.exact(logSizeBytes))"
    let rows = devices.map { ["  \($0.tier)", $0.path, SizeText.rounded($0.sizeBytes)] }
    return ([head] + StatusPage.table(rows)).joined(separator: "\n")
  }
}
