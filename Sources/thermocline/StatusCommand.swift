import Administration
import ArgumentParser
import Configuration

struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Ask the running server how it is.",
    discussion: """
      Shows what is stored where, what was read and written since the server's start, and every \
      error of every device. The answer comes from the server's control socket, which lies beside \
      its unix socket (its name with .control), or in the staging directory.

      Exit status: 0 the server answered; 2 it did not.
      """)

  @OptionGroup var configurationOption: ConfigurationOption

  @Flag(help: "Print JSON: sizes in bytes, counts since the server's start.")
  var json = false

  func run() throws {
    try carryOut {
      let configuration = try PoolConfiguration.read(file: configurationOption.file)
      let socket = try ControlSocket.path(for: configuration)
      let answer: [UInt8]
      do throws(ControlError) {
        answer = try ControlClient.get("/status", socket: socket)
      } catch {
        guard error.kind == .notRunning else { throw error }
        throw Refusal(
          "\(error).",
          "Start it with `thermocline serve --config \(configurationOption.file)`; a pool that is "
            + "not served can be looked at with check and inspect.")
      }
      if json {
        Console.printResult(answer + [UInt8(ascii: "\n")])
      } else {
        Console.printResult(StatusPage.text(try StatusReport.decode(answer)))
      }
    }
  }
}
