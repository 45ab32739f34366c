import Administration
import ArgumentParser
import Configuration
import Glibc
import Logging
import RingIO
import Server

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve the volume until SIGTERM or SIGINT.",
    discussion: """
      Opens the devices and becomes their only owner, recovers what an earlier server left, and \
      serves. Devices that do not belong together, are swapped, truncated or owned by another \
      process are refused by name. A stop waits up to 10 s for requests under way, then for the \
      batch that moves data out of the log, and leaves a clean pool; after limits.stop_seconds it \
      ends all the same. A second signal does not wait for clients. A kill loses nothing that was \
      acknowledged.

      SIGHUP reads the configuration again: limits, TLS and who may use the unix socket change \
      for new connections, and the volume may grow; what else has changed is named in the log, and \
      waits for a restart or for --takeover. With mistakes in it nothing changes.

      With --takeover the server that runs with this configuration is replaced: this process takes \
      its listening sockets and its clients' connections, and they go on as if nothing had \
      happened. [listen] may differ. When it cannot start, the running server goes on. Clients \
      that take or send nothing for 5 s meanwhile are closed. Encrypted connections go on with the \
      kernel's TLS; where it cannot (no TCP, no module tls, another cipher) their clients connect \
      again.

      Exit status: 0 stopped in order; 2 refused to start, or failed.
      """)

  @OptionGroup var configurationOption: ConfigurationOption

  @Flag(
    help: """
      Start although this boot's staging ring is gone. Acknowledged writes that only it held are \
      lost; the volume goes on from what the devices hold.
      """)
  var acceptLostRing = false

  @Flag(help: "Replace the running server, without its clients noticing.")
  var takeover = false

  @Option(
    help: """
      How many seconds a successor may take to open the pool before this server goes on itself.
      """)
  var handoverSeconds = 120

  func validate() throws {
    guard (1...3600).contains(handoverSeconds) else {
      throw ValidationError("--handover-seconds is a number from 1 to 3600.")
    }
  }

  /// What the log leaves out.
  enum LogLevel: String, ExpressibleByArgument, CaseIterable {
    case debug, info, notice, warning, error

    var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
  }

  @Option(help: "The least level that is logged.")
  var logLevel = LogLevel.info

  func run() throws {
    // Before anything else: threads made later inherit the mask.
    let signals = try SignalDescriptor([SIGTERM, SIGINT, SIGHUP])
    try carryOut {
      let logger = Logger(label: "thermocline") { _ in LogLines(level: logLevel.level) }
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      var handed: Handover? = nil
      var predecessor: HandoverChannel? = nil
      if takeover {
        // What can be wrong with the configuration is found out while the other one still serves.
        _ = try configuration.makeCredentials()
        let channel = HandoverChannel(
          try ControlClient.takeover(socket: ControlSocket.path(for: configuration)))
        handed = try channel.take()
        predecessor = channel
      }
      while true {
        let outcome = try serveOnce(configuration, signals, handed, predecessor, logger)
        guard case .handedOver(let all, let successor) = outcome else { return }
        let tell = ServiceManager.makeTeller()
        let process = successor.peerProcess
        let isReplaced = successor.give(
          all, seconds: handoverSeconds, logger, isAlive: { tell(.alive) })
        if isReplaced {
          tell(.replaced(by: process))
          return logger.notice("process \(process) serves in this one's place")
        }
        successor.close()
        handed = all
        predecessor = nil
      }
    }
  }

  /// Everything of the pool is let go of when it returns.
  private func serveOnce(
    _ configuration: PoolConfiguration, _ signals: SignalDescriptor, _ handed: Handover?,
    _ predecessor: HandoverChannel?, _ logger: Logger
  ) throws -> ServedOutcome {
    let served = try ServedPool(configuration, acceptLostRing: acceptLostRing, logger: logger)
    return try served.serve(signals: signals, handed) {
      try predecessor?.confirm()
      predecessor?.close()
    }
  }
}
