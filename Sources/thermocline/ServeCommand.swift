import ArgumentParser
import Configuration
import Glibc
import Logging
import RingIO

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve the volume until SIGTERM or SIGINT.",
    discussion: """
      Opens the devices and becomes their only owner, recovers what an earlier server left, and \
      serves. Devices that do not belong together, are swapped, truncated or owned by another \
      process are refused by name. A stop waits for clients and leaves a clean pool; a second \
      signal does not wait for them. A kill loses nothing that was acknowledged.

      Exit status: 0 stopped in order; 2 refused to start, or failed.
      """)

  @OptionGroup var configurationOption: ConfigurationOption

  @Flag(
    help: """
      Start although this boot's staging ring is gone. Acknowledged writes that only it held are \
      lost; the volume goes on from what the devices hold.
      """)
  var acceptLostRing = false

  /// What the log leaves out.
  enum LogLevel: String, ExpressibleByArgument, CaseIterable {
    case debug, info, notice, warning, error

    var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
  }

  @Option(help: "The least level that is logged.")
  var logLevel = LogLevel.info

  func run() throws {
    // Before anything else: threads made later inherit the mask.
    let signals = try SignalDescriptor([SIGTERM, SIGINT])
    try carryOut {
      let logger = Logger(label: "thermocline") { _ in LogLines(level: logLevel.level) }
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      let served = try ServedPool(
        configuration, acceptLostRing: acceptLostRing, logger: logger)
      try served.serve(signals: signals)
    }
  }
}
