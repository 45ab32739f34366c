import Administration
import ArgumentParser
import Base
import Configuration
import RingIO
import VolumeEngine

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Verify a whole pool that is not being served.",
    discussion: """
      Follows everything from the superblocks: log, extent table, bitmaps, homes; then reads every \
      block that is mapped and compares it with its checksum. Nothing is written. A pool whose \
      server was killed can be checked as well: what the log holds and the homes do not have yet \
      is no damage.

      Exit status: 0 clean; 1 damaged; 2 the check could not be done.
      """)

  @OptionGroup var configurationOption: ConfigurationOption

  @Flag(help: "Leave the data out: verify the metadata only.")
  var metadataOnly = false

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    var isDamaged = false
    try carryOut {
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      let pool = try OpenedPool.open(configuration, access: .shared)
      var line = ProgressLine("checking")
      let found = PoolCheck.run(on: pool.devices, verifyData: !metadataOnly) { done, total in
        line.show(done, of: total)
      }
      line.finish()
      let report = CheckResult(found, notes: pool.notes)
      if json {
        Console.printResult(try ReportEncoding.json(report) + [UInt8(ascii: "\n")])
      } else {
        Console.printResult(report.text)
      }
      isDamaged = !report.clean
    }
    if isDamaged { throw ExitStatus.damaged }
  }
}

/// What `check` prints.
private struct CheckResult: Encodable {
  var clean: Bool
  /// Sentences, each naming a thing and what was expected.
  var problems: [String]
  /// Problems beyond the first thousand.
  var unlistedProblems: Int
  /// What the check did without.
  var notes: [String]
  var pages: Int
  var extents: Int
  var logRecords: Int
  var blocksVerified: Int
  /// Blocks that answer EIO until they are written again.
  var lostBlocks: Int

  init(_ report: CheckReport, notes: [String]) {
    clean = report.isClean && report.lostBlocks == 0
    problems = report.problems
    unlistedProblems = report.unlistedProblems
    self.notes = notes
    pages = report.pages
    extents = report.extents
    logRecords = report.logRecords
    blocksVerified = report.blocksVerified
    lostBlocks = report.lostBlocks
  }

  var text: String {
    let amount = SizeText.rounded(UInt64(blocksVerified) * UInt64(Size.block))
    var lines = [
      clean ? "clean" : "damaged",
      "  \(pages) pages, \(extents) extents mapped, \(logRecords) log records",
      "  \(blocksVerified) blocks (\(amount)) read and verified",
    ]
    if lostBlocks > 0 { lines.append("  \(lostBlocks) blocks are lost until overwritten") }
    lines += problems.map { "  \($0)" }
    if unlistedProblems > 0 { lines.append("  and \(unlistedProblems) problems more") }
    return (lines + notes.map { "  note: \($0)" })
      .joined(separator: "\n")
  }
}
