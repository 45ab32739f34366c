import ArgumentParser

/// The command: one file a subcommand. Each reads the configuration, refuses what it must with the
/// place and the reason, and leaves the work to the rooms.
///
/// Exit statuses, the same for all subcommands, are those of `ExitStatus`.
@main
struct Thermocline: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "thermocline",
    abstract: "One volume over NBD, backed by tiers of block devices.",
    discussion: """
      Hot data lives on the fast tier, cold data on the slow one, and a background rebalancer \
      keeps it so. Acknowledged writes survive a kill of the server; flushed ones survive power \
      loss.

      To begin, describe the pool in a configuration file (Config/thermocline.example.toml \
      explains every key), then:

        thermocline format --config pool.toml   make the pool: all is overwritten
        thermocline serve --config pool.toml    serve it until SIGTERM or SIGINT
        thermocline status --config pool.toml   ask the server how it is
        thermocline check --config pool.toml    verify a pool that is not served
        thermocline inspect --config pool.toml  print what lies on its devices
        thermocline grow-device /dev/nbd0 URI   tell the kernel's client that the volume grew

      Exit status: 0 done; 1 check found damage; 2 refused or failed, with the reason on \
      standard error; 64 the command line was not understood.
      """,
    subcommands: [
      FormatCommand.self, ServeCommand.self, StatusCommand.self, CheckCommand.self,
      InspectCommand.self, GrowDeviceCommand.self,
    ])
}

/// What the program's exit status says.
enum ExitStatus {
  /// `check` found damage; `inspect` found a structure that is not valid.
  static let damaged = ExitCode(1)
  /// Refused or failed; the reason is on standard error.
  static let refused = ExitCode(2)
}

/// A reason not to go on: complete sentences, one a line.
struct Refusal: Error, CustomStringConvertible {
  let description: String
  init(_ lines: String...) { description = lines.joined(separator: "\n") }
  init(lines: [String]) { description = lines.joined(separator: "\n") }
}

/// Where every subcommand finds its pool.
struct ConfigurationOption: ParsableArguments {
  @Option(
    name: [.customShort("c"), .customLong("config")],
    help: ArgumentHelp(
      "The configuration file: what the pool consists of, and where it is served.",
      valueName: "file"))
  var file = "/etc/thermocline/thermocline.toml"
}

extension ParsableCommand {
  /// Runs a subcommand's work; what it throws is said on standard error and becomes an exit status.
  func carryOut(_ work: () throws -> Void) throws {
    do {
      try work()
    } catch let status as ExitCode {
      throw status
    } catch {
      Console.complain("\(error)")
      throw ExitStatus.refused
    }
  }
}
