import Administration
import ArgumentParser
import Base
import Configuration
import DiskFormat
import RingIO

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Print what lies on a pool's devices, readably.",
    discussion: """
      Nothing is opened for writing and nothing is locked, so that a pool can be looked at while \
      it is served; what is read may then be a moment old, or half of a change.

        label        who each device is: both copies
        superblock   the root of the pool: both copies
        log          segment headers, then the records from the last checkpoint on
        table        pages of the extent table, with --offset one extent's record

      Exit status: 0 printed; 1 printed, and a structure is not valid; 2 refused or failed.
      """)

  enum Structure: String, ExpressibleByArgument, CaseIterable {
    case label, superblock, log, table
  }

  @OptionGroup var configurationOption: ConfigurationOption

  @Argument(help: "What to print; all of it when nothing is named.")
  var structures: [Structure] = []

  @Option(help: "table: only the extent that holds this byte of the volume.")
  var offset: UInt64?

  @Option(help: "At most so many records of the log, and so many pages of the table.")
  var limit = 64

  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    guard limit > 0 else { throw ValidationError("--limit is at least 1.") }
  }

  func run() throws {
    try carryOut {
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      let report = try inspect(configuration)
      if json {
        Console.printResult(try ReportEncoding.json(report) + [UInt8(ascii: "\n")])
      } else {
        Console.printResult(report.text)
      }
      if !report.problems.isEmpty { throw ExitStatus.damaged }
    }
  }

  private func inspect(_ configuration: PoolConfiguration) throws -> InspectReport {
    let paths = configuration.devices.map(\.settings.path)
    let set = try DeviceSet(paths: paths, access: .glance, patience: Milliseconds(0))
    let devices = try RingWaitingDevices(set)
    let chosen = structures.isEmpty ? Structure.allCases : structures
    var report = InspectReport()
    let labels = report.readLabels(devices, paths)
    if !chosen.contains(.label) { report.labels = nil }
    guard let pool = labels.first.flatMap({ $0 })?.pool else {
      report.problems.append("\(paths[0]) has no valid label: there is nothing more to look at.")
      return report
    }
    let superblock = report.readSuperblocks(devices, pool)
    if !chosen.contains(.superblock) { report.superblocks = nil }
    guard let superblock else { return report }
    if chosen.contains(.log) {
      report.readLog(devices, superblock, limit: limit)
    }
    if chosen.contains(.table) {
      var walk = TableWalk(devices: devices, superblock: superblock, limit: limit)
      if let offset {
        walk.visit(ExtentIndex(offset / UInt64(Size.extent)))
      } else {
        walk.visitAll()
      }
      report.pages = walk.pages
      report.problems += walk.problems
      if walk.isCut { report.cut.append("pages") }
    }
    return report
  }
}
